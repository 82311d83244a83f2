"""Ranks and alphas that an adapter's config gives to parts of a layer that was trained as one.

optimum-neuron 0.4 looks patterns up under the fused layer's name, so one that names gate_proj changes nothing in
gate_up_proj; but it saves the config as it was given, and PEFT would apply the pattern to what was split.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuron_ops.errors import InvalidInput
from neuron_ops.weights.lora import PREFIX, pattern_value
from neuron_ops.weights.neuron_layout import Fusion

PATTERNS = {"rank_pattern": ("r", 8), "alpha_pattern": ("lora_alpha", 8)}
"""Each with the field that holds for all other layers, and its default."""


def check_fused_patterns(path: Path, config: Mapping[str, Any], fusions: Iterable[Fusion]) -> None:
    """Refuse a config that does not say what was trained.

    Raises:
        InvalidInput: it gives a part another rank or alpha than its fused layer had in the training.
    """
    for fusion in fusions:
        for field, (general, default) in PATTERNS.items():
            values = [
                pattern_value(config.get(field), name.removeprefix(PREFIX), config.get(general, default))
                for name in (fusion.layer, *fusion.linears)
            ]
            for linear, value in zip(fusion.linears, values[1:], strict=True):
                if value != values[0]:
                    raise InvalidInput(
                        f"{path}: {field} gives {linear.removeprefix(PREFIX)} {value}, but it was trained as a part of "
                        f"{fusion.layer.rpartition('.')[2]} with {values[0]}: optimum-neuron ignores patterns that "
                        f"name a part of a fused layer. Take such entries out of {field}, so that it says what was "
                        "trained, and consolidate again."
                    )
