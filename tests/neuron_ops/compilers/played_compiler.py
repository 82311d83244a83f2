"""Trainium's compiler as tests have it: the stand-in as a program in a folder, what it is to do, how it was called."""

import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAND_IN = Path(__file__).with_name("stand_in.py")
ROOT = Path(__file__).parents[3]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
"""config.json of a model as large as Llama 3 8B, which nobody opens here."""


@dataclass(frozen=True)
class Compiler:
    """The stand-in, to be found by `environment`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        program = self.folder / "neuron_parallel_compile"
        program.write_text(STAND_IN.read_text().replace("#!/usr/bin/env python", f"#!{sys.executable}"))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def environment(self, path: str) -> dict[str, str]:
        """What whoever compiles needs, with the PATH that it had."""
        return {"PATH": f"{self.folder}:{path}", "STAND_IN_ROOT": str(ROOT)}

    def plan(self, *rounds: dict[str, Any], node: int = 0) -> None:
        """What it does on a node, call by call."""
        (self.folder / f"plan-{node}.json").write_text(json.dumps(rounds))

    def calls(self, node: int = 0) -> list[dict[str, Any]]:
        """How it was called there."""
        file = self.folder / f"calls-{node}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
