"""Checkpoints, adapters and bases for `fine-tune consolidate` and `fine-tune merge`, and commands that work."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

FIXTURES = Path(__file__).parents[2] / "fixtures" / "neuron_checkpoints"
CHECKPOINT = FIXTURES / "b_tp2_all_pt" / "checkpoint-4"
EXPECTED = FIXTURES / "b_tp2_all_pt" / "expected"
ADAPTER = EXPECTED / "consolidated"
BASE = FIXTURES / "bases" / "llama-h8-kv4-bf16"
NAMED = ("--base-model", "tests/base")
COMMANDS = {
    "consolidate": ("consolidate", CHECKPOINT, "OUT", *NAMED),
    "merge": ("merge", BASE, "OUT", "--adapter", ADAPTER),
}


Typed = Callable[..., Result]
