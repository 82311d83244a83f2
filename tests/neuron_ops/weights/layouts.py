"""How a training on Trainium can be parallelized, as far as its checkpoints show it."""

from dataclasses import dataclass, field


@dataclass
class Layout:
    """How a run was parallelized."""

    tp: int = 2
    pp: int = 1
    kv_heads: int = 8
    fuse_qkv: bool = False
    xser: bool = False
    layers: int = 2
    kv_repeat: int = field(init=False)

    def __post_init__(self) -> None:
        self.kv_repeat = max(1, self.tp // self.kv_heads)

    def stage_of(self, name: str) -> int:
        if ".layers." in name:
            return int(name.split(".layers.")[1].split(".")[0]) * self.pp // self.layers
        return 0 if "embed_tokens" in name else self.pp - 1


LAYOUTS = {
    "tp2": Layout(),
    "pp2": Layout(pp=2),
    "tp2_pp2_xser": Layout(pp=2, xser=True),
    "tp1": Layout(tp=1),
    "fused_qkv": Layout(fuse_qkv=True),
    "kv_repeat_2": Layout(tp=4, kv_heads=2),
    "kv_repeat_4": Layout(tp=8, kv_heads=2, pp=2),
    "kv_repeat_2_fused": Layout(tp=4, kv_heads=2, fuse_qkv=True),
    "kv_repeat_2_fused_xser": Layout(tp=4, kv_heads=2, fuse_qkv=True, xser=True),
}
