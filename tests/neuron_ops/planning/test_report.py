"""How a forecast looks: for a person at a terminal, for the UI, for a program."""

import json
import subprocess
import sys

from neuron_ops.planning.forecast import make_forecast
from neuron_ops.planning.report import WIDTH, to_json, to_markdown, to_text
from neuron_ops.steps.table import STEPS
from tests.neuron_ops.planning.conftest import MakeLineage, fetch_base

TITLES = ["Data", "Training", "World", "Memory of each process", "Compiled graphs", "Time and price", "Artifacts"]


def test_the_verdict_comes_first_then_problems_then_sections(make_lineage: MakeLineage) -> None:
    lines = to_text(make_forecast(make_lineage(training__max_steps=10, training__warmup_steps=2))).splitlines()

    assert lines[0] == "GO  v1 with tiny_llama_cpu"
    assert lines[2].split()[0] == "note"
    assert [line for line in lines[3:] if line and not line.startswith(" ")] == TITLES


def test_no_go_says_how_many_problems_and_lists_what_stops_before_what_does_not(make_lineage: MakeLineage) -> None:
    lineage = make_lineage(
        hardware__tensor_parallel_size=2,
        dataset__holdout_fraction=1e-9,
        training__eval_steps=40,
        training__max_steps=30,
    )

    text = to_text(make_forecast(lineage))

    assert text.startswith("NO-GO  v1 with tiny_llama_cpu: 2 problems to solve first\n\n  stops ")
    assert text.index("  stops ") < text.index("  note ") < text.index("\nData")


def test_a_terminal_line_is_not_longer_than_it_is_wide_but_for_an_address(make_lineage: MakeLineage) -> None:
    lines = to_text(make_forecast(make_lineage("llama3_8b_lora_trn1"), has_hub_token=False)).splitlines()

    assert max(map(len, lines)) <= WIDTH


def test_what_is_not_known_says_until_when(make_lineage: MakeLineage) -> None:
    text = to_text(make_forecast(make_lineage("llama3_8b_lora_trn1")))

    assert text.count("until base_model is materialized") == 3, "memory, graphs and the rate"


def test_the_ui_gets_the_same_sections(make_lineage: MakeLineage) -> None:
    shown = to_markdown(make_forecast(make_lineage(dataset__holdout_fraction=1e-9)))

    assert shown.startswith("**NO-GO  v1 with tiny_llama_cpu: 1 problem to solve first**\n\n- **stops** No row is held")
    assert [line.removeprefix("#### ") for line in shown.splitlines() if line.startswith("#")] == TITLES


def test_programs_get_every_number(make_lineage: MakeLineage) -> None:
    lineage = make_lineage()
    fetch_base(lineage)

    plan = json.loads(to_json(make_forecast(make_lineage())))

    assert plan["go"] is True
    assert plan["problems"][0].keys() == {"blocking", "text"}
    assert plan["data"]["rows"] == 120
    assert plan["epochs"]["number"].keys() == {"low", "high"}
    assert plan["memory"]["parts"][0]["bytes"] == {"low": 16_000_000, "high": 16_000_000}
    assert plan["graphs"]["is_hit"] is False
    assert [state["artifact"] for state in plan["artifacts"]] == [step.artifact for step in STEPS]
    assert plan["artifacts"][0]["finished"] is True


def test_planning_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "peft", "datasets", "boto3", "s3fs", "dagster", "numpy", "tokenizers", "pyarrow")
    program = (
        "import sys, neuron_ops.planning.forecast, neuron_ops.planning.report\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
