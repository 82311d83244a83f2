"""How fast one process trains, for people: never part of the history, which is the same on any machine."""

from dataclasses import dataclass


@dataclass(slots=True)
class Speed:
    """Tokens and seconds since this process began to train."""

    tokens: int = 0
    seconds: float = 0.0
    first_tokens: int = 0
    first_step: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """One step more."""
        if not self.seconds:
            self.first_tokens, self.first_step = tokens, seconds
        self.tokens += tokens
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Tokens a second; without the first step, once there are others: that one may have compiled."""
        if self.seconds > self.first_step:
            return (self.tokens - self.first_tokens) / (self.seconds - self.first_step)
        return self.tokens / self.seconds if self.seconds else 0.0
