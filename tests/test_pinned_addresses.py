"""The addresses of the shipped recipes, pinned in tests/addresses.json.

A change of that file in a diff is the question "do we mean to retrain everybody?". To pin anew after an answer of yes:
`python -m tests.test_pinned_addresses`.
"""

import json
import tempfile
from pathlib import Path

from neuron_ops.recipe.file import shipped_recipes
from neuron_ops.recipe.schema import package_path
from tests.neuron_ops.steps.finishing import finish_all, open_lineage

PINS = Path(__file__).with_name("addresses.json")
VERSION = "demo-v1"


def addresses(folder: Path) -> dict[str, dict[str, str]]:
    """Of every artifact of every shipped recipe for the shipped dataset, made from inputs whose contents are fixed."""
    raw = str(package_path("package:demo/raw"))
    return {
        name: finish_all(open_lineage(name, str(folder / name), raw, VERSION)) for name in sorted(shipped_recipes())
    }


def test_an_upgrade_retrains_nobody(tmp_path: Path) -> None:
    assert addresses(tmp_path) == json.loads(PINS.read_text(encoding="utf-8")), (
        "addresses of shipped recipes moved: every user of them would make these artifacts again"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PINS.write_text(json.dumps(addresses(Path(scratch)), indent=2) + "\n", encoding="utf-8")
