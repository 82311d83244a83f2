"""Which node a pod gets, and what is said where it gets none."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from tests.cluster.client import Client
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import pod
from tests.cluster.kinds import CLAIMS, NODES, PODS, PRIORITY_CLASSES, Kind
from tests.cluster.objects import Object, find_condition, name_of
from tests.cluster.scheduler import Scheduler

NEURON = {"resources": {"limits": {"aws.amazon.com/neuron": "16"}}}
TAINT = {"key": "aws.amazon.com/neuron", "value": "true", "effect": "NoSchedule"}
TOLERATION = {"key": "aws.amazon.com/neuron", "operator": "Exists", "effect": "NoSchedule"}


def asking_for(name: str, resources: Object, **more: object) -> Object:
    """A pod that waits to be ended and books something."""
    made = pod(name, "sleep 60", terminationGracePeriodSeconds=0, **more)
    made["spec"]["containers"][0] |= resources
    return made


def refusal(cluster: Cluster, name: str) -> str:
    """Why the scheduler found no node for a pod."""

    def look() -> str | None:
        found = find_condition(cluster.pod(name), "PodScheduled")
        return found["message"] if found and found["status"] == "False" else None

    return cluster.wait_for(look, f"the scheduler to refuse {name}")


def node_of(cluster: Cluster, name: str) -> str:
    node = cluster.wait_for(lambda: cluster.pod(name)["spec"].get("nodeName"), f"a node for {name}")
    return str(node)


def test_a_pod_goes_where_its_accelerators_are(cluster: Cluster) -> None:
    cluster.add_node("cpu-1")
    cluster.add_node("trn1-1", {"aws.amazon.com/neuron": "16"})

    cluster.create(PODS, asking_for("train", NEURON))

    assert node_of(cluster, "train") == "trn1-1"


def test_every_node_s_obstacle_is_counted_in_the_real_scheduler_s_words(cluster: Cluster) -> None:
    cluster.add_node("cpu-1")
    cluster.add_node("trn1-1", {"aws.amazon.com/neuron": "16"}, taints=(TAINT,))
    cluster.add_node("trn1-2", {"aws.amazon.com/neuron": "16"}, taints=(TAINT,))

    cluster.create(PODS, asking_for("train", NEURON))

    assert refusal(cluster, "train") == (
        "0/3 nodes are available: 1 Insufficient aws.amazon.com/neuron, "
        "2 node(s) had untolerated taint {aws.amazon.com/neuron: true}. "
        "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, "
        "2 Preemption is not helpful for scheduling."
    )
    assert [event["message"] for event in cluster.events("FailedScheduling")] == [refusal(cluster, "train")]


def test_a_tolerated_taint_is_no_obstacle(cluster: Cluster) -> None:
    cluster.add_node("trn1-1", {"aws.amazon.com/neuron": "16"}, taints=(TAINT,))

    cluster.create(PODS, asking_for("train", NEURON, tolerations=[TOLERATION]))

    assert node_of(cluster, "train") == "trn1-1"


def test_what_one_pod_booked_the_next_waits_for(cluster: Cluster) -> None:
    cluster.add_node("trn1-1", {"aws.amazon.com/neuron": "16"})
    cluster.create(PODS, asking_for("one", NEURON))
    cluster.wait_for_phase("one", "Running")
    cluster.create(PODS, asking_for("two", NEURON))
    assert "1 Insufficient aws.amazon.com/neuron" in refusal(cluster, "two")

    cluster.delete(PODS, cluster.pod("one"))

    assert node_of(cluster, "two") == "trn1-1"


def test_a_selector_that_no_node_has_is_named(cluster: Cluster) -> None:
    cluster.add_node("cpu-1")

    selector = {"node.kubernetes.io/instance-type": "trn1.32xlarge"}
    cluster.create(PODS, pod("elsewhere", nodeSelector=selector))

    assert refusal(cluster, "elsewhere").startswith(
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    )


def test_affinity_to_an_instance_type_is_followed(cluster: Cluster) -> None:
    cluster.add_node("cpu-1")
    cluster.add_node("trn1-1", labels={"node.kubernetes.io/instance-type": "trn1.32xlarge"})
    expression = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["trn1.32xlarge"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}

    cluster.create(PODS, pod("there", affinity=affinity))

    assert node_of(cluster, "there") == "trn1-1"


def test_a_claim_that_does_not_exist_is_named(cluster: Cluster) -> None:
    cluster.add_node("cpu-1")
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "fsx"}}

    cluster.create(PODS, pod("lost", "true", volumes=[volume]))
    assert 'persistentvolumeclaim "fsx" not found' in refusal(cluster, "lost")

    cluster.create(CLAIMS, {"metadata": {"name": "fsx"}, "spec": {}})
    cluster.wait_for_phase("lost", "Succeeded")


def test_a_pod_waits_for_the_first_node(cluster: Cluster) -> None:
    cluster.create(PODS, pod("early", "true"))
    assert refusal(cluster, "early") == "no nodes available to schedule pods"

    cluster.add_node("cpu-1")

    cluster.wait_for_phase("early", "Succeeded")


def test_a_cordoned_node_takes_no_pod(cluster: Cluster) -> None:
    cluster.add_node("cpu-1")
    cluster.patch(NODES, cluster.objects(NODES)[0], {"spec": {"unschedulable": True}})

    cluster.create(PODS, pod("outside"))

    assert "1 node(s) were unschedulable" in refusal(cluster, "outside")


def test_of_two_waiting_pods_the_more_important_goes_first(cluster: Cluster) -> None:
    cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "training"}, "value": 1000})
    cluster.create(PODS, asking_for("first-come", NEURON))
    cluster.create(PODS, asking_for("important", NEURON, priorityClassName="training"))
    refusal(cluster, "important")

    cluster.add_node("trn1-1", {"aws.amazon.com/neuron": "16"})

    assert node_of(cluster, "important") == "trn1-1"
    assert "nodeName" not in cluster.pod("first-come")["spec"]


class SlowWatch:
    """The scheduler's view of a cluster whose watches show nothing by themselves, and its client."""

    def __init__(self, *pods: Object) -> None:
        self.items: dict[Kind, dict[str, Object]] = {PODS: {}, NODES: {}, CLAIMS: {}}
        self.items[PODS] = {name_of(pod): pod for pod in pods}
        self.bound: list[str] = []
        self.arrives: Object | None = None
        """A node that is there as soon as the scheduler has refused a pod."""

    def add_node(self, node: Object) -> None:
        self.items[NODES][name_of(node)] = node

    def passes(self, number: int) -> None:
        scheduler = Scheduler(cast(Client, self))
        scheduler._pods, scheduler._nodes, scheduler._claims = (
            cast(Any, SimpleNamespace(items=self.items[kind])) for kind in (PODS, NODES, CLAIMS)
        )
        for _ in range(number):
            asyncio.run(scheduler._reconcile())

    async def patch_status(self, kind: Kind, thing: Object, status: Object) -> None:
        if self.arrives:
            self.add_node(self.arrives)

    async def post(self, kind: Kind, namespace: str, name: str, part: str, body: Object) -> None:
        self.bound.append(name)

    async def event(self, *about: object) -> None:
        pass


def node(name: str, **allocatable: str) -> Object:
    return {"metadata": {"name": name}, "status": {"allocatable": {"pods": "100", **allocatable}}}


def pending(name: str, priority: int = 0) -> Object:
    """A pod as the API server keeps it."""
    made = asking_for(name, NEURON, priority=priority)
    made["metadata"] |= {"namespace": "default", "uid": name, "creationTimestamp": "2026-11-01T00:00:00Z"}
    return {**made, "status": {"phase": "Pending"}}


def test_a_node_that_comes_in_the_middle_of_a_pass_waits_for_the_next() -> None:
    watch = SlowWatch(pending("first-come"), pending("important", priority=1000))
    watch.arrives = node("trn1-1", **{"aws.amazon.com/neuron": "16"})

    watch.passes(1)
    assert watch.bound == []
    watch.passes(2)

    assert watch.bound == ["important"]


def test_a_node_is_not_booked_twice_while_the_watch_is_behind() -> None:
    watch = SlowWatch(pending("one"))
    watch.add_node(node("trn1-1", **{"aws.amazon.com/neuron": "16"}))
    watch.items[PODS]["two"] = pending("two", priority=-1)

    watch.passes(2)

    assert watch.bound == ["one"]
