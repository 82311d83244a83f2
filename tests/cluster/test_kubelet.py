"""What containers find, how they end, and what their pods' status says about it."""

import base64
import subprocess
import time
from typing import Any

from tests.cluster.checkout import CHECKOUT
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import container, pod
from tests.cluster.kinds import CLAIMS, CONFIG_MAPS, NODES, PODS, SECRETS, SERVICES
from tests.cluster.objects import Object, dig, find_condition, is_true

WAIT = "trap 'echo asked to end; exit 3' TERM; echo started; while true; do sleep 0.05; done"


def start(cluster: Cluster, name: str, script: str, *, spec: Object | None = None, **in_container: Any) -> None:
    """A node, unless there is one, and a pod on it."""
    if not cluster.objects(NODES):
        cluster.add_node("node-a")
    made = pod(name, script, **(spec or {}))
    made["spec"]["containers"][0] |= in_container
    cluster.create(PODS, made)


def run(cluster: Cluster, script: str, *, spec: Object | None = None, **in_container: Any) -> str:
    """The log of a pod that succeeds."""
    start(cluster, "probe", script, spec=spec, **in_container)
    cluster.wait_for_phase("probe", "Succeeded")
    return cluster.log("probe")


def state(cluster: Cluster, name: str) -> Object:
    return dict(dig(cluster.pod(name), "status.containerStatuses", [{}])[0].get("state", {}))


def waiting_reason(cluster: Cluster, name: str, reason: str) -> str:
    """The message of a container that waits for this reason."""

    def look() -> str | None:
        waiting = state(cluster, name).get("waiting", {})
        return waiting.get("message") if waiting.get("reason") == reason else None

    return cluster.wait_for(look, f"{name} to wait with {reason}")


def wait_until_started(cluster: Cluster, name: str) -> None:
    cluster.wait_for_phase(name, "Running")
    cluster.wait_for(lambda: "started" in cluster.log(name), f"{name} to speak")


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
    assert cluster.pod("deaf")["metadata"]["deletionTimestamp"]

    cluster.wait_for(lambda: not cluster.pods(), "the pod to be gone")


def test_what_a_container_started_ends_with_it_even_in_a_session_of_its_own(cluster: Cluster) -> None:
    run(cluster, "setsid sleep 4711 & echo done")

    cluster.wait_for(lambda: not _is_running("sleep 4711"), "the orphan to be gone", 5)


def test_a_lost_node_is_silent_then_unreachable_then_gone_and_its_pods_with_it(cluster: Cluster) -> None:
    start(cluster, "stranded", WAIT)
    wait_until_started(cluster, "stranded")

    cluster.lose_node("node-a")

    assert dig(cluster.pod("stranded"), "status.phase") == "Running"  # nobody has noticed yet
    node = cluster.wait_for(lambda: _not_ready(cluster), "the node to be missed")
    assert node["message"] == "Kubelet stopped posting node status."
    disruption = cluster.wait_for(lambda: find_condition(cluster.pod("stranded"), "DisruptionTarget"), "the eviction")
    assert disruption["reason"] == "DeletionByTaintManager"
    cluster.wait_for(lambda: not cluster.pods() and not cluster.objects(NODES), "everything to be gone")


def test_the_log_of_a_pod_that_has_not_started_says_why(cluster: Cluster) -> None:
    start(cluster, "typo", "true", image="registry.example/none:1")
    waiting_reason(cluster, "typo", "ImagePullBackOff")

    answer = _kubectl(cluster, "logs", "typo")

    assert 'container "main" in pod "typo" is waiting to start: trying and failing to pull image' in answer.stderr


def test_logs_can_be_cut_and_stamped(cluster: Cluster) -> None:
    run(cluster, "echo one; echo two; echo three")

    tail = cluster.api.read_namespaced_pod_log("probe", "default", tail_lines=2, _preload_content=False)
    stamped = cluster.api.read_namespaced_pod_log("probe", "default", timestamps=True, _preload_content=False)

    assert tail.data.decode() == "two\nthree\n"
    stamps = [line.split(" ")[0] for line in stamped.data.decode().splitlines()]
    assert stamps == sorted(set(stamps))
    assert stamps[0].startswith(time.strftime("%Y-"))


def _not_ready(cluster: Cluster) -> Object | None:
    ready = find_condition(cluster.objects(NODES)[0], "Ready")
    return ready if ready and ready["status"] == "Unknown" else None


def _is_running(command: str) -> bool:
    return subprocess.run(["pgrep", "-f", f"^{command}$"], stdout=subprocess.DEVNULL).returncode == 0


def _kubectl(cluster: Cluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True)
