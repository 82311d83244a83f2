"""`fine-tune plan`: the exit code is the verdict, what stands in the way comes first, and nothing is started."""

import json
from pathlib import Path

import pytest

from neuron_ops.steps.table import STEPS
from tests.fine_tune_assets.conftest import Project, Typed, assert_refused


@pytest.fixture(autouse=True)
def without_hub_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in at the hub, whatever this computer's user did."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_the_demo_is_a_go_and_nothing_is_started(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    result = typed("plan", "v1")

    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "GO  v1 with tiny_llama_cpu"
    assert [line.split()[:2] for line in lines[-len(STEPS) :]] == [["to", "make"]] * len(STEPS)
    assert not (project.root / "store").exists()


def test_a_no_go_is_shown_whole_and_ends_with_an_error(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    result = typed("plan", "v1", "--set", "graph.sequence_length=16")

    assert result.exit_code == 2
    assert result.stdout.startswith("NO-GO  v1 with tiny_llama_cpu: 1 problem to solve first\n\n  stops ")
    assert "dataset.overlong" in result.stdout
    assert "\nArtifacts\n" in result.stdout
    assert result.stderr == "Error: No-go for v1 with tiny_llama_cpu: 1 problem, listed at the top.\n"


@pytest.mark.parametrize(("fraction", "go"), [("0.1", True), ("0.0000001", False)])
def test_programs_read_the_same_as_json(project: Project, typed: Typed, fraction: str, go: bool) -> None:
    project.deliver("v1")

    result = typed("plan", "v1", "--json", "--set", f"dataset.holdout_fraction={fraction}")

    assert json.loads(result.stdout)["go"] is go
    assert result.exit_code == (0 if go else 2)


def test_a_missing_hub_token_is_mentioned_until_there_is_one(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.deliver("v1")
    words = ("plan", "v1", "--recipe", "llama3_8b_lora_trn1")

    missing = typed(*words)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text("hf_secret")
    logged_in = typed(*words)
    (tmp_path / "hub" / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    given = typed(*words)

    assert "set HF_TOKEN where" in " ".join(missing.stdout.split())
    assert "HF_TOKEN" not in logged_in.stdout + given.stdout
    assert "hf_secret" not in logged_in.stdout + given.stdout


def test_a_price_below_nothing_is_refused(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    assert_refused(typed("plan", "v1", "--set", "hardware.usd_per_hour=-1"), 2, "hardware.usd_per_hour")


def test_a_store_that_is_no_place_for_one_is_one_error(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.deliver("v1")
    monkeypatch.setenv("FINE_TUNE_STORE", "ftp://somewhere/store")

    assert_refused(typed("plan", "v1"), 2, "ftp://somewhere is not supported")


@pytest.fixture
def shared(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings of pods that share the project's store; no cluster is configured."""
    settings = f"default: {{cpu: 2, volumes: [{{claim: data, mount: {project.root}}}]}}\n"
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("FINE_TUNE_PODS", settings)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return settings


@pytest.mark.usefixtures("shared")
def test_for_kubernetes_the_plan_says_that_no_cluster_was_asked(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    asked, local = typed("plan", "v1", "--deployment", "kubernetes"), typed("plan", "v1", "--deployment", "local")

    assert (asked.exit_code, asked.stderr) == (0, "")
    assert "note The cluster was not checked: none is configured." in " ".join(asked.stdout.split())
    assert "No cluster" not in local.stdout


@pytest.mark.parametrize(
    ("pods", "overrides", "said"),
    [
        ("", ["hardware.instance_type=trn9"], "hardware.instance_type is 'trn9', but backend neuron needs one of"),
        (
            "training: {cpu: 200}",
            [],
            "The pod of lora_checkpoints asks for 200 of cpu, but trn1.32xlarge has 128, so no node can run it.",
        ),
        (
            "training: {memory: 1Ti}",
            [],
            "The pod of compiled_graph_cache asks for 1Ti of memory, but trn1.32xlarge has 512Gi,",
        ),
        (
            "assets: {evaluation: {memory: 8Gi, shared_memory: 16Gi}}",
            [],
            "The pod of evaluation has 8Gi of memory, less than its shared_memory of 16Gi, which is part of it.",
        ),
    ],
)
def test_pods_that_cannot_work_are_a_no_go(
    pods: str,
    overrides: list[str],
    said: str,
    shared: str,
    project: Project,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.deliver("v1")
    monkeypatch.setenv("FINE_TUNE_PODS", shared + pods)
    words = [word for pair in overrides for word in ("--set", pair)]

    result = typed("plan", "v1", "--recipe", "llama3_8b_lora_trn1", "--deployment", "kubernetes", *words)

    assert result.exit_code == 2
    assert f"stops {said}" in " ".join(result.stdout.split())
    assert result.stdout.count(said[:40]) == 1


def test_settings_of_pods_that_are_wrong_are_one_error(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.deliver("v1")
    monkeypatch.setenv("FINE_TUNE_PODS", "assets: {lora: {cpu: 2}}\n")

    assert_refused(
        typed("plan", "v1", "--deployment", "kubernetes"), 2, "'lora' is not an asset; the assets are base_model"
    )


def test_a_store_that_pods_do_not_share_is_a_no_go(project: Project, typed: Typed) -> None:
    project.deliver("v1")

    result = typed("plan", "v1", "--deployment", "kubernetes")

    assert result.exit_code == 2
    assert "is a folder of one pod" in " ".join(result.stdout.split())
