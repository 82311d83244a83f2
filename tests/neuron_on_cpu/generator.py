"""The device's random generator, as the stand-in for the device has it."""


class Generator:
    """The device's generator as torch_xla 2.8 was seen to keep it: an unsigned 64-bit number, moved by every sync.

    What is drawn on the device follows from it, so here the host's generator does.
    """

    def __init__(self) -> None:
        self.state = 0

    def set(self, state: int) -> None:
        import torch

        self.state = int(state) % 2**64
        torch.manual_seed(self.state)

    def move(self) -> None:
        self.set(7012063 * self.state + 1012031)
