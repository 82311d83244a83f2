"""What containers find, how they end, and what their pods' status says about it."""

import asyncio
import base64
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil

from tests.cluster.checkout import CHECKOUT
from tests.cluster.client import Client
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import container, pod
from tests.cluster.container import Container
from tests.cluster.kinds import CLAIMS, CONFIG_MAPS, NODES, PODS, SECRETS, SERVICES, Kind
from tests.cluster.objects import Object, dig, find_condition, is_true, merge_patch
from tests.cluster.pod_setup import Launch
from tests.cluster.pod_worker import KubeletSettings, PodWorker
from tests.cluster.probe_pods import WAIT, run, start, state, wait_until_started, waiting_reason


def test_a_container_sees_its_own_environment_and_nothing_of_the_tests(cluster: Cluster) -> None:
    cluster.create(CONFIG_MAPS, {"metadata": {"name": "settings"}, "data": {"COLOUR": "blue"}})
    token = base64.b64encode(b"hf_secret").decode()
    cluster.create(SECRETS, {"metadata": {"name": "tokens"}, "data": {"hugging-face": token}})

    log = run(
        cluster,
        "env",
        envFrom=[{"configMapRef": {"name": "settings"}}],
        env=[
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "hugging-face"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "BOTH", "value": "$(COLOUR) on $(NODE), $(UNKNOWN)"},
        ],
    )

    assert {"COLOUR=blue", "HF_TOKEN=hf_secret", "NODE=node-a", "BOTH=blue on node-a, $(UNKNOWN)"} < set(
        log.split("\n")
    )
    assert "HOSTNAME=probe" in log
    assert "PYTEST_CURRENT_TEST" not in log


def test_a_claim_keeps_what_a_pod_wrote_and_a_mount_path_is_its_folder(cluster: Cluster) -> None:
    cluster.create(CLAIMS, {"metadata": {"name": "fsx"}, "spec": {}})
    mounted: Any = {
        "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "fsx"}}]},
        "volumeMounts": [{"name": "data", "mountPath": "/fsx"}],
    }
    start(cluster, "writer", "echo kept > /fsx/file", **mounted)
    cluster.wait_for_phase("writer", "Succeeded")

    assert run(cluster, "cat $STORE/file", env=[{"name": "STORE", "value": "/fsx"}], **mounted) == "kept\n"


def test_secrets_and_config_maps_can_be_files(cluster: Cluster) -> None:
    cluster.create(CONFIG_MAPS, {"metadata": {"name": "recipes"}, "data": {"a.yaml": "name: a"}})

    log = run(
        cluster,
        "cat /etc/recipes/a.yaml",
        spec={"volumes": [{"name": "recipes", "configMap": {"name": "recipes"}}]},
        volumeMounts=[{"name": "recipes", "mountPath": "/etc/recipes"}],
    )

    assert log == "name: a"


def test_a_missing_secret_is_waited_for_by_name(cluster: Cluster) -> None:
    source = {"secretKeyRef": {"name": "tokens", "key": "hugging-face"}}
    start(cluster, "early", "true", env=[{"name": "HF_TOKEN", "valueFrom": source}])
    assert waiting_reason(cluster, "early", "CreateContainerConfigError") == 'secret "tokens" not found'

    token = base64.b64encode(b"hf_secret").decode()
    cluster.create(SECRETS, {"metadata": {"name": "tokens"}, "data": {"hugging-face": token}})

    cluster.wait_for_phase("early", "Succeeded")


def test_a_headless_service_s_hosts_are_this_machine(cluster: Cluster) -> None:
    cluster.create(SERVICES, {"metadata": {"name": "world"}, "spec": {"clusterIP": "None"}})

    address = [{"name": "MASTER_ADDR", "value": "train-0.world.default.svc.cluster.local"}]
    assert run(cluster, "echo $MASTER_ADDR train-0.world:29500", env=address) == "127.0.0.1 127.0.0.1:29500\n"


def test_init_containers_come_first_and_one_that_fails_ends_the_pod(cluster: Cluster) -> None:
    broken = {**container("exit 9"), "name": "prepare"}
    start(cluster, "broken", "echo never", spec={"initContainers": [broken]})

    found = cluster.wait_for_phase("broken", "Failed")

    assert found["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 9
    assert not is_true(found, "Initialized")


def test_an_exit_code_a_reason_and_the_termination_message_are_reported(cluster: Cluster) -> None:
    start(
        cluster,
        "doomed",
        "echo the shape is wrong > /message; exit 65",
        terminationMessagePath="/message",
    )

    cluster.wait_for_phase("doomed", "Failed")

    ended = state(cluster, "doomed")["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (65, "Error", "the shape is wrong\n")


def test_the_end_of_the_log_can_be_the_termination_message(cluster: Cluster) -> None:
    start(cluster, "doomed", "echo last words; exit 1", terminationMessagePolicy="FallbackToLogsOnError")

    cluster.wait_for_phase("doomed", "Failed")

    assert state(cluster, "doomed")["terminated"]["message"] == "last words\n"


def test_an_out_of_memory_kill_is_named(cluster: Cluster) -> None:
    start(cluster, "greedy", WAIT)
    wait_until_started(cluster, "greedy")

    cluster.oom_kill("greedy")

    cluster.wait_for_phase("greedy", "Failed")
    ended = state(cluster, "greedy")["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_an_eviction_is_named_and_marked_as_a_disruption(cluster: Cluster) -> None:
    start(cluster, "victim", WAIT)
    wait_until_started(cluster, "victim")

    cluster.evict("victim")

    found = cluster.wait_for_phase("victim", "Failed")
    disruption = find_condition(found, "DisruptionTarget")
    assert disruption is not None
    assert (found["status"]["reason"], disruption["reason"]) == ("Evicted", "TerminationByKubelet")
    assert found["status"]["message"].startswith("The node was low on resource: memory.")


def test_an_unknown_image_backs_off_until_it_can_be_pulled(cluster: Cluster) -> None:
    start(cluster, "typo", "true", image="registry.example/fine-tune:typo")
    message = waiting_reason(cluster, "typo", "ImagePullBackOff")
    assert message.startswith('Back-off pulling image "registry.example/fine-tune:typo"')
    assert dig(cluster.pod("typo"), "status.phase") == "Pending"
    assert any("Failed to pull image" in event["message"] for event in cluster.events("Failed"))

    cluster.images["registry.example/*"] = CHECKOUT

    cluster.wait_for_phase("typo", "Succeeded")


def test_a_program_that_does_not_exist_cannot_be_started(cluster: Cluster) -> None:
    start(cluster, "nothing", "", command=["no-such-program"])

    cluster.wait_for_phase("nothing", "Failed")

    ended = state(cluster, "nothing")["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "no-such-program" in ended["message"]


def test_a_container_that_fails_again_and_again_is_in_a_crash_loop(cluster: Cluster) -> None:
    start(cluster, "looping", "echo try; exit 1", spec={"restartPolicy": "OnFailure"})

    assert "back-off restarting failed container" in waiting_reason(cluster, "looping", "CrashLoopBackOff")
    cluster.wait_for(lambda: dig(cluster.pod("looping"), "status.containerStatuses")[0]["restartCount"] >= 1)
    status = cluster.pod("looping")["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 1


def test_a_deleted_pod_may_end_by_itself_within_its_grace_period(cluster: Cluster) -> None:
    start(cluster, "polite", WAIT)
    wait_until_started(cluster, "polite")
    follower = cluster.api.read_namespaced_pod_log("polite", "default", follow=True, _preload_content=False)

    cluster.delete(PODS, cluster.pod("polite"))

    assert follower.data.decode() == "started\nasked to end\n"
    cluster.wait_for(lambda: not cluster.pods(), "the pod to be gone")


def test_a_pod_that_does_not_listen_is_killed_after_its_grace_period(cluster: Cluster) -> None:
    start(cluster, "deaf", "trap '' TERM; echo started; while true; do sleep 0.05; done")
    wait_until_started(cluster, "deaf")

    cluster.delete(PODS, cluster.pod("deaf"), grace_seconds=1)

    cluster.wait_for(lambda: not cluster.pods(), "the pod to be gone")
    last = cluster.versions(PODS, "deaf")[-1]
    assert last["metadata"]["deletionTimestamp"]
    assert last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_what_a_container_started_ends_with_it_even_in_a_session_of_its_own(cluster: Cluster) -> None:
    orphan = f"sleep 4711.{os.getpid()}"  # no other test session's
    run(cluster, f"setsid {orphan} & echo done")

    cluster.wait_for(lambda: not _is_running(orphan), "the orphan to be gone")


def test_a_lost_node_is_silent_then_unreachable_then_gone_and_its_pods_with_it(cluster: Cluster) -> None:
    start(cluster, "stranded", WAIT)
    wait_until_started(cluster, "stranded")

    cluster.lose_node("node-a")

    cluster.wait_for(lambda: not cluster.pods() and not cluster.objects(NODES), "everything to be gone")
    silent = [c for c in _conditions(cluster, NODES, "node-a", "Ready") if c["status"] == "Unknown"]
    assert silent[0]["message"] == "Kubelet stopped posting node status."
    disruptions = _conditions(cluster, PODS, "stranded", "DisruptionTarget")
    assert disruptions[0]["reason"] == "DeletionByTaintManager"
    # The machine says no more: what the pod was last is what it stayed until its node was forgotten.
    assert cluster.versions(PODS, "stranded")[-1]["status"]["containerStatuses"][0]["state"]["running"]


class SlowWatch:
    """A kubelet's client whose watch is behind: the pod was deleted, and its worker does not know yet."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def patch_status(self, kind: Kind, thing: Object, status: Object) -> Object:
        return {}

    async def delete(self, kind: Kind, thing: Object, grace_seconds: int | None = None) -> None:
        self.deleted.append(thing["metadata"]["name"])


def test_a_pod_that_ends_before_its_kubelet_knows_that_it_is_deleted_goes_nevertheless(tmp_path: Path) -> None:
    watch = SlowWatch()
    ending = pod("ending")
    ending["metadata"] |= {"namespace": "default", "uid": "1"}
    ending["spec"]["containers"] = []  # has ended as soon as it begins

    async def end_and_learn_of_it() -> None:
        worker = PodWorker(cast(Client, watch), KubeletSettings(tmp_path, {}), ending)
        await worker.done()
        worker.update(merge_patch(ending, {"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}}))
        worker.stop(0)
        await worker.done()

    asyncio.run(end_and_learn_of_it())

    assert watch.deleted == ["ending"]


def test_a_container_s_exit_code_is_its_own_however_soon_after_one_another_it_is_signalled(tmp_path: Path) -> None:
    launch = Launch(("sleep", "60"), dict(os.environ), tmp_path, tmp_path / "message")

    async def end(number: int) -> int | None:
        one = Container({"name": "main"}, f"test/{os.getpid()}/{number}", tmp_path / f"{number}.log")
        await one.start(launch)
        waiting = asyncio.create_task(one.wait())
        one.terminate()
        _wait_until_dead(one)  # with the loop held: nobody has been told
        one.kill()
        await waiting
        return one.exit_code

    assert {asyncio.run(end(number)) for number in range(20)} == {143}


def _wait_until_dead(container: Container) -> None:
    assert container._process is not None
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(container._process.pid).status() != psutil.STATUS_ZOMBIE:
            pass


def _conditions(cluster: Cluster, kind: Kind, name: str, condition: str) -> list[Object]:
    """What a condition of an object has been, as long as it had it."""
    found = [find_condition(version, condition) for version in cluster.versions(kind, name)]
    return [each for each in found if each is not None]


def _is_running(command: str) -> bool:
    return subprocess.run(["pgrep", "-f", f"^{command}$"], stdout=subprocess.DEVNULL).returncode == 0
