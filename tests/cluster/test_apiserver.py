"""What clients of the API server rely on: identity, revisions, selections, patches, watches, owners and faults."""

import json
import threading
from collections.abc import Iterator

import pytest
import urllib3
from kubernetes import client as kubernetes
from kubernetes import watch
from kubernetes.client import ApiException

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job, pod
from tests.cluster.kinds import CONFIG_MAPS, JOBS, PODS, PYTORCH_JOBS
from tests.cluster.objects import Object, dig, name_of, owner_reference


def config_map(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}, "data": {"key": "value"}}


def test_a_created_object_gets_an_identity_and_a_name(cluster: Cluster) -> None:
    one = cluster.create(CONFIG_MAPS, {"metadata": {"generateName": "settings-"}})
    two = cluster.create(CONFIG_MAPS, {"metadata": {"generateName": "settings-"}})

    assert name_of(one).startswith("settings-")
    assert name_of(one) != name_of(two)
    assert one["metadata"]["uid"] != two["metadata"]["uid"]
    assert int(one["metadata"]["resourceVersion"]) < int(two["metadata"]["resourceVersion"])
    assert one["metadata"]["creationTimestamp"]


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (config_map("taken"), 409, 'configmaps "taken" already exists'),
        (config_map("Not_A_Name"), 422, "must be a DNS subdomain"),
        (config_map("labelled", owner="two words"), 422, 'Invalid value: "two words" (label owner)'),
        ({"metadata": {}}, 422, "metadata.name or generateName is required"),
    ],
)
def test_what_cannot_be_created_is_refused_with_a_reason(
    cluster: Cluster, body: Object, code: int, message: str
) -> None:
    cluster.create(CONFIG_MAPS, config_map("taken"))

    with pytest.raises(ApiException) as refused:
        cluster.api.create_namespaced_config_map("default", body)

    assert refused.value.status == code
    assert message in json.loads(refused.value.body)["message"]


def test_a_namespace_that_does_not_exist_is_named(cluster: Cluster) -> None:
    with pytest.raises(ApiException, match=r'namespaces \\"elsewhere\\" not found'):
        cluster.api.create_namespaced_config_map("elsewhere", config_map("a"))


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=dagster", ["a", "b"]),
        ("app=dagster,tier!=step", ["a"]),
        ("tier in (run, step)", ["a", "b"]),
        ("tier notin (run)", ["b", "c"]),
        ("tier", ["a", "b"]),
        ("!tier", ["c"]),
    ],
)
def test_lists_and_deletions_follow_label_selectors(cluster: Cluster, selector: str, names: list[str]) -> None:
    for name, labels in {
        "a": {"app": "dagster", "tier": "run"},
        "b": {"app": "dagster", "tier": "step"},
        "c": {"app": "other"},
    }.items():
        cluster.create(CONFIG_MAPS, config_map(name, **labels))

    listed = cluster.api.list_namespaced_config_map("default", label_selector=selector)
    cluster.api.delete_collection_namespaced_config_map("default", label_selector=selector)

    assert [item.metadata.name for item in listed.items] == names
    left = cluster.api.list_namespaced_config_map("default").items
    assert {item.metadata.name for item in left} == {"a", "b", "c"} - set(names)


def test_events_are_found_by_the_object_they_are_about(cluster: Cluster) -> None:
    cluster.create(PODS, pod("lonely"))
    cluster.wait_for(lambda: cluster.events("FailedScheduling"), "the event")

    found = cluster.api.list_namespaced_event("default", field_selector="involvedObject.name=lonely")
    others = cluster.api.list_namespaced_event("default", field_selector="involvedObject.name!=lonely")

    assert [event.reason for event in found.items] == ["FailedScheduling"]
    assert others.items == []


def test_a_writer_that_read_an_older_revision_is_told_so(cluster: Cluster) -> None:
    cluster.create(CONFIG_MAPS, config_map("shared"))
    mine = cluster.api.read_namespaced_config_map("shared", "default")
    cluster.api.patch_namespaced_config_map("shared", "default", {"data": {"key": "theirs"}})

    mine.data = {"key": "mine"}
    with pytest.raises(ApiException) as refused:
        cluster.api.replace_namespaced_config_map("shared", "default", mine)

    assert refused.value.status == 409
    assert "the object has been modified" in refused.value.body


def test_status_is_written_by_its_own_path_only(cluster: Cluster) -> None:
    cluster.create(PODS, pod("a"))

    cluster.api.patch_namespaced_pod("a", "default", {"status": {"phase": "Succeeded"}})
    assert cluster.pod("a")["status"]["phase"] == "Pending"

    cluster.api.patch_namespaced_pod_status("a", "default", {"status": {"phase": "Succeeded"}})
    assert cluster.pod("a")["status"]["phase"] == "Succeeded"


@pytest.mark.parametrize(
    ("style", "patch", "expected"),
    [
        ("merge-patch", {"data": {"key": None, "new": "1"}}, {"new": "1"}),
        ("strategic-merge-patch", {"data": {"new": "1"}}, {"key": "value", "new": "1"}),
        ("json-patch", [{"op": "replace", "path": "/data/key", "value": "1"}], {"key": "1"}),
    ],
)
def test_all_three_kinds_of_patch_work(cluster: Cluster, style: str, patch: object, expected: Object) -> None:
    cluster.create(CONFIG_MAPS, config_map("a"))

    answer = urllib3.request(
        "PATCH",
        f"{_url(cluster)}/api/v1/namespaces/default/configmaps/a",
        body=json.dumps(patch),
        headers={"Content-Type": f"application/{style}+json"},
    )

    assert answer.json()["data"] == expected


def test_a_watch_tells_what_enters_and_what_leaves_its_selection(cluster: Cluster) -> None:
    cluster.create(CONFIG_MAPS, config_map("a", state="new"))
    seen: list[tuple[str, str]] = []
    watching = watch.Watch()

    def follow() -> None:
        stream = watching.stream(
            cluster.api.list_namespaced_config_map, "default", label_selector="state=new", timeout_seconds=60
        )
        for event in stream:
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == 3:
                watching.stop()

    thread = threading.Thread(target=follow)
    thread.start()
    cluster.wait_for(lambda: seen, "the first event")
    cluster.api.patch_namespaced_config_map("a", "default", {"metadata": {"labels": {"state": "old"}}})
    cluster.create(CONFIG_MAPS, config_map("b", state="new"))
    thread.join()

    assert seen == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b")]


def test_what_an_object_owns_goes_with_it(cluster: Cluster) -> None:
    owner = cluster.create(CONFIG_MAPS, config_map("owner"))
    owned = config_map("owned")
    owned["metadata"]["ownerReferences"] = [owner_reference(owner)]
    cluster.create(CONFIG_MAPS, owned)

    cluster.delete(CONFIG_MAPS, owner)

    assert cluster.objects(CONFIG_MAPS) == []


def test_what_is_made_for_an_owner_that_is_gone_does_not_stay(cluster: Cluster) -> None:
    owner = cluster.create(CONFIG_MAPS, config_map("owner"))
    cluster.delete(CONFIG_MAPS, owner)
    late = config_map("late")
    late["metadata"]["ownerReferences"] = [owner_reference(owner)]

    cluster.create(CONFIG_MAPS, late)

    assert cluster.objects(CONFIG_MAPS) == []


def test_deleting_a_job_may_leave_its_pods(cluster: Cluster) -> None:
    cluster.create(JOBS, job("parent"))
    cluster.wait_for(cluster.pods, "the pod")

    cluster.batch.delete_namespaced_job("parent", "default", propagation_policy="Orphan")

    assert (
        "ownerReferences" not in cluster.pods()[0]["metadata"] or not cluster.pods()[0]["metadata"]["ownerReferences"]
    )


def test_a_finalizer_keeps_a_deleted_object_until_it_is_removed(cluster: Cluster) -> None:
    made = cluster.create(CONFIG_MAPS, {"metadata": {"name": "kept", "finalizers": ["example.org/hold"]}})

    cluster.delete(CONFIG_MAPS, made)
    assert cluster.objects(CONFIG_MAPS)[0]["metadata"]["deletionTimestamp"]

    cluster.patch(CONFIG_MAPS, made, {"metadata": {"finalizers": None}})
    assert cluster.objects(CONFIG_MAPS) == []


def test_custom_resources_are_kept_for_whoever_acts_on_them(cluster: Cluster) -> None:
    cluster.create(PYTORCH_JOBS, {"metadata": {"name": "train"}, "spec": {"pytorchReplicaSpecs": {}}})

    api = kubernetes.CustomObjectsApi(cluster.api.api_client)
    api.patch_namespaced_custom_object_status(
        "kubeflow.org", "v1", "default", "pytorchjobs", "train", {"status": {"conditions": [{"type": "Running"}]}}
    )
    found = api.get_namespaced_custom_object("kubeflow.org", "v1", "default", "pytorchjobs", "train")

    assert (found["apiVersion"], found["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert found["status"]["conditions"] == [{"type": "Running"}]


@pytest.fixture
def impatient(cluster: Cluster) -> Iterator[kubernetes.CoreV1Api]:
    """A client that asks once."""
    api = cluster.api
    api.api_client.rest_client.pool_manager.connection_pool_kw["retries"] = False
    yield api
    api.api_client.rest_client.pool_manager.clear()


def test_a_fault_hits_the_requests_it_names_as_often_as_it_says(
    cluster: Cluster, impatient: kubernetes.CoreV1Api
) -> None:
    cluster.fault(r"GET .*/configmaps", times=2, status=503)

    codes = []
    for _ in range(3):
        try:
            impatient.list_namespaced_config_map("default")
            codes.append(200)
        except ApiException as refused:
            codes.append(refused.status)
    impatient.list_namespaced_secret("default")

    assert codes == [503, 503, 200]


def test_a_fault_can_be_a_connection_that_breaks(cluster: Cluster, impatient: kubernetes.CoreV1Api) -> None:
    cluster.fault(r"GET .*/configmaps", reset=True)

    with pytest.raises(urllib3.exceptions.ProtocolError):
        impatient.list_namespaced_config_map("default")

    assert impatient.list_namespaced_config_map("default").items == []


def test_a_fault_can_be_an_answer_that_takes_its_time(cluster: Cluster, impatient: kubernetes.CoreV1Api) -> None:
    cluster.fault(r"GET .*/configmaps", delay=5)

    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        impatient.list_namespaced_config_map("default", _request_timeout=0.2)

    assert impatient.list_namespaced_config_map("default").items == []


def test_the_control_plane_outlives_an_api_server_that_fails(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.fault(r"(POST|PATCH) .*/(pods|jobs/stubborn|events)", times=6, status=500)
    cluster.fault(r"(POST|PATCH) .*/(pods|jobs/stubborn)", times=6, reset=True)

    cluster.create(JOBS, job("stubborn", "true"))

    cluster.wait_for(lambda: dig(cluster.jobs()[0], "status.succeeded"), "success")
    assert cluster.server is not None
    assert [fault.times for fault in cluster.server.faults] == [0, 0]


def _url(cluster: Cluster) -> str:
    return str(cluster.api.api_client.configuration.host)
