"""`fine-tune pods` and `fine-tune janitor` as people type them."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fine_tune_assets.cli.main import main
from neuron_ops.steps.table import STEPS


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINE_TUNE_STORE", "s3://bucket/store")
    for name in ("DAGSTER_HOME", "FINE_TUNE_PODS", "FINE_TUNE_RECIPE", "FINE_TUNE_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)


def test_every_assets_pod_is_printed_as_yaml() -> None:
    done = CliRunner().invoke(main, ["pods", "--recipe", "llama3_8b_lora_trn1"])

    printed = yaml.safe_load(done.output)
    assert list(printed) == [step.artifact for step in STEPS]
    limits = {name: config["container_config"]["resources"]["limits"] for name, config in printed.items()}
    assert limits["lora_checkpoints"]["aws.amazon.com/neuron"] == "16"
    assert "aws.amazon.com/neuron" not in limits["merged_model"]


def test_one_assets_pod_can_be_asked_for_as_it_is_once_its_artifact_is_finished() -> None:
    done = CliRunner().invoke(main, ["pods", "lora_checkpoints", "--recipe", "llama3_8b_lora_trn1", "--finished"])

    assert list(yaml.safe_load(done.output)) == ["lora_checkpoints"]
    assert "neuron" not in done.output


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["pods", "lora"], {}, "'lora' is not an asset. The assets are base_model,"),
        (["pods"], {"FINE_TUNE_STORE": "/home/me"}, "The store '/home/me' is a folder of one pod"),
        (["pods"], {"FINE_TUNE_PODS": "/none.yaml"}, "FINE_TUNE_PODS names '/none.yaml', which cannot be read"),
        (
            ["pods", "--recipe", "llama3_8b_lora_trn1", "--set", "hardware.instance_type=trn9"],
            {},
            "hardware.instance_type is 'trn9'",
        ),
        (["janitor"], {}, "DAGSTER_HOME is not set"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], environment: dict[str, str], said: str) -> None:
    done = CliRunner().invoke(main, words, env=environment)

    assert done.exit_code == 2
    assert said in done.output
    assert done.output.count("\n") == 1


def test_the_janitor_refuses_an_instance_without_pods(tmp_path: Path) -> None:
    pytest.importorskip("dagster_k8s", reason="needs the extra k8s")
    (tmp_path / "dagster.yaml").touch()

    done = CliRunner().invoke(main, ["janitor"], env={"DAGSTER_HOME": str(tmp_path)})

    assert done.exit_code == 2
    assert "launches runs with DefaultRunLauncher" in done.output
