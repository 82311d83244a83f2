"""The code location: what Dagster sees before anything runs."""

import pytest
from dagster import AssetKey, AssetSpec, Definitions

from fine_tune_assets.assets import OWNERS
from fine_tune_assets.definitions import build_definitions
from fine_tune_assets.partitions import DATASET_VERSIONS, PARTITIONS_NAME
from fine_tune_assets.settings import Settings
from neuron_ops.steps.table import BY_ARTIFACT, RAW_DATASET, STEPS
from tests.fine_tune_assets.conftest import Project

ARTIFACTS = [step.artifact for step in STEPS]


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return build_definitions(Settings("tiny_llama_cpu", "/store", "/store/raw", None))


@pytest.fixture(scope="module")
def specs(definitions: Definitions) -> dict[str, AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_the_graph_is_the_raw_dataset_and_one_asset_for_each_step(specs: dict[str, AssetSpec]) -> None:
    assert set(specs) == {RAW_DATASET, *ARTIFACTS}


@pytest.mark.parametrize("artifact", [RAW_DATASET, *ARTIFACTS])
def test_an_asset_says_what_it_is_and_whose(specs: dict[str, AssetSpec], artifact: str) -> None:
    spec = specs[artifact]

    assert spec.description is not None
    assert spec.description.endswith(".")
    assert spec.kinds
    assert list(spec.owners) == OWNERS
    assert spec.code_version == (BY_ARTIFACT[artifact].code_version if artifact in BY_ARTIFACT else None)


def test_groups_follow_one_another_without_a_cycle(specs: dict[str, AssetSpec]) -> None:
    order = {"inputs": 0, "training": 1, "model": 2}

    for spec in specs.values():
        for dep in spec.deps:
            upstream = specs[dep.asset_key.to_user_string()]
            assert order[str(upstream.group_name)] <= order[str(spec.group_name)]


def test_every_asset_but_the_base_model_is_partitioned_by_dataset_version(specs: dict[str, AssetSpec]) -> None:
    assert DATASET_VERSIONS.name == PARTITIONS_NAME == "dataset_version"
    unpartitioned = {name for name, spec in specs.items() if spec.partitions_def is None}
    assert unpartitioned == {"base_model"}
    assert all(spec.partitions_def in (None, DATASET_VERSIONS) for spec in specs.values())


def test_lineage_leads_from_the_raw_dataset_to_the_evaluation(specs: dict[str, AssetSpec]) -> None:
    edges = {(dep.asset_key.to_user_string(), name) for name, spec in specs.items() for dep in spec.deps}

    assert edges == {
        (RAW_DATASET, "tokenized_dataset"),
        ("base_model", "tokenized_dataset"),
        ("base_model", "compiled_graph_cache"),
        ("tokenized_dataset", "lora_checkpoints"),
        ("base_model", "lora_checkpoints"),
        ("compiled_graph_cache", "lora_checkpoints"),
        ("lora_checkpoints", "consolidated_weights"),
        ("base_model", "consolidated_weights"),
        ("base_model", "merged_model"),
        ("consolidated_weights", "merged_model"),
        ("tokenized_dataset", "merged_model"),
        ("merged_model", "evaluation"),
        ("consolidated_weights", "evaluation"),
        ("base_model", "evaluation"),
        ("tokenized_dataset", "evaluation"),
    }


def test_checks_are_known_before_the_first_run_and_belong_to_the_producing_asset(definitions: Definitions) -> None:
    declared = {
        (spec.asset_key.to_user_string(), spec.name, spec.description, spec.blocking)
        for node in definitions.resolve_asset_graph().assets_defs
        for spec in node.check_specs
    }

    assert declared == {
        (step.artifact, check.name, check.description, check.blocking) for step in STEPS for check in step.checks
    }


def test_only_steps_that_book_an_accelerator_wait_in_its_pool(definitions: Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    pools = {artifact: graph.get(AssetKey(artifact)).pools for artifact in ARTIFACTS}

    assert {artifact for artifact, names in pools.items() if names} == {"compiled_graph_cache", "lora_checkpoints"}


def test_a_failed_step_is_tried_again_where_that_can_help(definitions: Definitions) -> None:
    for artifact in ARTIFACTS:
        policy = definitions.resolve_assets_def(artifact).op.retry_policy
        assert policy is not None
        assert policy.max_retries == 2


@pytest.mark.slow
def test_dagster_validates_the_definitions(project: Project) -> None:
    done = project.command("dagster", "definitions", "validate")

    assert done.returncode == 0
    assert "All code locations passed validation" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"), [("check defs", "All definitions loaded successfully"), ("list defs", "lora_checkpoints")]
)
def test_dg_understands_the_project(project: Project, words: str, said: str) -> None:
    done = project.command("dg", *words.split(), COLUMNS="200")

    assert done.returncode == 0, done.stderr
    assert said in done.stdout
