"""The team's settings: layered from general to specific, and wrong ones told before a run starts."""

from pathlib import Path

import pytest

from fine_tune_assets.kubernetes.pods.settings import Pods, PodSettings, load_pods
from neuron_ops.errors import InvalidInput

ROOT = Path(__file__).parents[4]


def _file(folder: Path, text: str) -> str:
    path = folder / "pods.yaml"
    path.write_text(text)
    return str(path)


def test_without_a_file_every_pod_gets_the_defaults() -> None:
    pods = load_pods(None)

    assert pods == Pods()
    assert pods.settings("merged_model", for_hardware=False) == pods.default


def test_a_more_specific_setting_wins_and_the_rest_is_inherited(tmp_path: Path) -> None:
    pods = load_pods(
        _file(
            tmp_path,
            """
            default: {image: slim, memory: 8Gi, cpu: 2, service_account: steps}
            training: {image: neuron, memory: 400Gi}
            assets:
              lora_checkpoints: {deadline_minutes: 600}
              merged_model: {memory: 64Gi}
            """,
        )
    )

    training = pods.settings("lora_checkpoints", for_hardware=True)
    merged = pods.settings("merged_model", for_hardware=False)

    assert (training.image, training.memory, training.cpu, training.deadline_minutes) == ("neuron", "400Gi", "2", 600)
    assert (merged.image, merged.memory, merged.service_account) == ("slim", "64Gi", "steps")


def test_the_example_is_one_that_works() -> None:
    pods = load_pods(str(ROOT / "deployments" / "kubernetes" / "overlays" / "eks" / "pods.yaml"))

    assert pods.settings("lora_checkpoints", for_hardware=True).deadline_minutes == 2880


def test_a_list_of_volumes_replaces_the_more_general_one() -> None:
    general = Pods.model_validate({"default": {"volumes": [{"claim": "fsx", "mount": "/fsx"}]}}).default

    assert PodSettings(volumes=()).over(general).volumes == ()
    assert PodSettings().over(general).volumes == general.volumes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("assets: {lora_checkpoint: {cpu: 2}}", "'lora_checkpoint' is not an asset; the assets are base_model,"),
        ("default: {memory: -4Gi}", "default.memory: must be an amount such as 64Gi, got '-4Gi'"),
        ("default: {memory: 0}", "got '0'"),
        ("default: {memory: 4m}", "got '4m'"),
        ("default: {cpu: 0}", "default.cpu: must be a number of cores such as 4 or 500m, got '0'"),
        ("training: {deadline_minutes: 0}", "training.deadline_minutes: Input should be greater than or equal to 1"),
        ("training: {neuron: 16}", "training.neuron: Extra inputs are not permitted"),
        ("pending_timeout_seconds: -1", "pending_timeout_seconds: Input should be greater than or equal to 1"),
        ("max_disruptions: -1", "max_disruptions"),
        ("default: {service_account: Not A Name}", "default.service_account"),
        (
            "default: {volumes: [{claim: fsx, mount: fsx}]}",
            "default.volumes.0.mount: must be an absolute path, got 'fsx'",
        ),
        (
            "default: {volumes: [{claim: a, mount: /x}, {claim: b, mount: /x}]}",
            "default.volumes: two volumes have the same mount",
        ),
        (
            "default: {node_selector: {node.kubernetes.io/instance-type: trn1.32xlarge}}",
            "must not name node.kubernetes.io/instance-type: it comes from the recipe's hardware.instance_type",
        ),
        ("- a list", "the file: Input should be a valid dictionary"),
        ("default: [", "which is not YAML"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match="FINE_TUNE_PODS names") as error:
        load_pods(_file(tmp_path, text))

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variable_may_hold_the_settings_themselves() -> None:
    assert load_pods("default:\n  memory: 8Gi\n").default.memory == "8Gi"

    with pytest.raises(InvalidInput, match=r"holds settings: default\.memory: must be an amount"):
        load_pods("default:\n  memory: much\n")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml', which cannot be read: No such file or directory"):
        load_pods(str(tmp_path / "none.yaml"))
