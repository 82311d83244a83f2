"""Entries of a Trainium compiler's cache in every state, written as its documentation and published caches show them.

Nothing here compiles: it is what the reader of such a cache is tested with.
"""

import json
from pathlib import Path

COMPILER = "neuronxcc-2.21.33363.0+82129205"
FLAGS = ["--target=trn1", "--model-type=transformer"]
FAILURE = (
    "Failed compilation with ['neuronx-cc', 'compile', '--target=trn1', 'model.hlo_module.pb']: "
    "2026-11-01T10:00:00Z [NLA001] Unhandled exception with message: out of memory"
)


def write_entry(cache: Path, key: str, state: str, compiler: str = COMPILER, flags: list[str] | None = None) -> Path:
    """One entry `MODULE_<key>`; returns its folder."""
    entry = cache / compiler / f"MODULE_{key}"
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "model.hlo_module.pb").write_bytes(b"graph")
    (entry / "compile_flags.json").write_text(json.dumps(FLAGS if flags is None else flags))
    if state in ("complete", "complete, lock left", "only the program"):
        (entry / "model.neff").write_bytes(b"program")
    if state in ("complete", "complete, lock left", "done without a program", "done with an empty program"):
        (entry / "model.done").touch()
    if state == "done with an empty program":
        (entry / "model.neff").touch()
    if state == "failed":
        (entry / "model.log").write_text(FAILURE)
    if state in ("locked", "complete, lock left"):
        (entry / "model.hlo_module.pb.lock").touch()
    return entry
