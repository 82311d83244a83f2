"""What `fine-tune plan` finds of a cluster before a run starts, asked of the test cluster as it would be of any."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fine_tune_assets.kubernetes.preflight import preflight
from fine_tune_assets.settings import Settings
from neuron_ops.errors import InvalidInput, Unavailable
from neuron_ops.planning.forecast import Problem
from neuron_ops.recipe.file import load_recipe
from neuron_ops.recipe.schema import Recipe
from tests.cluster.cluster import Cluster
from tests.cluster.kinds import (
    CLAIMS,
    LOCAL_QUEUES,
    NAMESPACES,
    PRIORITY_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Kind,
)
from tests.cluster.requests import Fault

PODS = """
namespace: team
default: {service_account: steps, cpu: 2, memory: 8Gi, volumes: [{claim: fsx, mount: /fsx}]}
training: {service_account: training, priority_class: high, queue: trainium}
assets: {base_model: {secrets: [hub]}}
"""
NAMED: list[tuple[Kind, dict[str, Any]]] = [
    (SERVICE_ACCOUNTS, {"metadata": {"name": "steps"}}),
    (SERVICE_ACCOUNTS, {"metadata": {"name": "training"}}),
    (CLAIMS, {"metadata": {"name": "fsx"}}),
    (SECRETS, {"metadata": {"name": "hub"}, "data": {"HF_TOKEN": "c2VjcmV0"}}),
    (LOCAL_QUEUES, {"metadata": {"name": "trainium"}}),
    (PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 1}),
]

Look = Callable[..., list[str]]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("llama3_8b_lora_trn1")


@pytest.fixture
def settings(cluster: Cluster) -> Settings:
    """Those of a terminal with a kubeconfig."""
    return Settings(
        recipe="llama3_8b_lora_trn1",
        store="s3://bucket/store",
        raw="s3://bucket/raw",
        dagster_home=None,
        pods=PODS,
        kubeconfig=str(cluster.kubeconfig),
    )


def _fill(cluster: Cluster, *, without: str = "") -> None:
    cluster.create(NAMESPACES, {"metadata": {"name": "team"}})
    cluster.namespace = "team"
    for kind, thing in NAMED:
        if thing["metadata"]["name"] != without:
            cluster.create(kind, thing)


def _requests(cluster: Cluster) -> list[str]:
    assert cluster.server is not None
    return cluster.server.requests


def test_a_cluster_that_has_everything_is_a_go(cluster: Cluster, settings: Settings, recipe: Recipe) -> None:
    _fill(cluster)
    before = len(_requests(cluster))

    assert preflight(settings, recipe) == []

    asked = {request for request in _requests(cluster)[before:] if "watch" not in request}
    assert {request.split()[0] for request in asked if "selfsubjectaccessreviews" not in request} == {"GET"}
    assert len(cluster.objects(SERVICE_ACCOUNTS)) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("steps", "ServiceAccount steps is not in namespace team, and the pods of base_model, tokenized_dataset, "),
        ("training", "ServiceAccount training is not in namespace team, and the pods of compiled_graph_cache, "),
        ("fsx", "PersistentVolumeClaim fsx is not in namespace team, and the pods of base_model, "),
        ("hub", "Secret hub is not in namespace team, and the pod of base_model cannot start without it. "),
        ("trainium", "LocalQueue trainium is not in namespace team, and the pods of compiled_graph_cache, lora_check"),
        ("high", "PriorityClass high is not in the cluster, and the pods of compiled_graph_cache, lora_checkpoints "),
    ],
)
def test_what_the_pods_name_and_nobody_made_is_one_error(
    name: str, said: str, cluster: Cluster, settings: Settings, recipe: Recipe
) -> None:
    _fill(cluster, without=name)

    [problem] = preflight(settings, recipe)

    assert problem.blocking
    assert problem.text.startswith(said)
    assert problem.text.endswith("Create it (docs/kubernetes.md), or correct FINE_TUNE_PODS.")


def test_a_namespace_that_is_not_there_is_one_error_for_all_that_would_be_in_it(
    settings: Settings, recipe: Recipe
) -> None:
    assert preflight(settings, recipe) == [
        Problem(True, "Namespace team is not in the cluster. Apply deployments/kubernetes first.")
    ]


def test_the_namespace_is_the_kubeconfig_s_where_the_settings_name_none(
    cluster: Cluster, settings: Settings, recipe: Recipe
) -> None:
    found = preflight(replace(settings, pods="default: {service_account: steps}\n"), recipe)

    assert [problem.text.split(",")[0] for problem in found] == [
        f"ServiceAccount steps is not in namespace {cluster.namespace}"
    ]


def test_a_permission_that_a_run_needs_is_missed_before_it_starts(
    cluster: Cluster, settings: Settings, recipe: Recipe
) -> None:
    _fill(cluster)
    assert cluster.server is not None
    cluster.server.denied.add(("create", "jobs"))

    [problem] = preflight(settings, recipe)

    assert problem.blocking
    assert problem.text.startswith("This account may not create jobs in namespace team, and a run has to.")


def test_what_may_not_be_looked_at_is_a_note(cluster: Cluster, settings: Settings, recipe: Recipe) -> None:
    _fill(cluster)
    assert cluster.server is not None
    cluster.server.faults.append(Fault("GET .*/serviceaccounts/steps", status=403))

    assert preflight(settings, recipe) == [
        Problem(False, "This account may not read ServiceAccount steps, so it is unknown whether it exists.")
    ]


@pytest.mark.parametrize(
    "fault", [Fault("GET .*/team$", status=503), Fault("GET .*/team$", reset=True)], ids=["busy", "gone"]
)
def test_a_cluster_that_does_not_answer_is_one_error(
    fault: Fault, cluster: Cluster, settings: Settings, recipe: Recipe
) -> None:
    assert cluster.server is not None
    cluster.server.faults.append(replace(fault))

    with pytest.raises(Unavailable, match=r"^Kubernetes did not (answer when asked to )?read Namespace team"):
        preflight(settings, recipe)


def test_credentials_that_are_out_of_date_are_one_error(cluster: Cluster, settings: Settings, recipe: Recipe) -> None:
    assert cluster.server is not None
    cluster.server.faults.append(Fault("GET .*/team$", status=401))

    with pytest.raises(InvalidInput, match=r"does not accept these credentials to .*: .*\. Log in"):
        preflight(settings, recipe)


def test_a_kubeconfig_that_is_none_is_one_error(settings: Settings, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"KUBECONFIG names '.*/none', which cannot be used"):
        preflight(replace(settings, kubeconfig=str(tmp_path / "none")), recipe)
