"""Kubelets that are given a kubeconfig and know nothing else, as they would serve a real control plane."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.cluster.checkout import ROOT
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job, pod
from tests.cluster.kinds import JOBS, NODES, PODS
from tests.cluster.objects import name_of


def test_a_node_joins_by_kubeconfig_alone(cluster: Cluster, tmp_path: Path) -> None:
    with Cluster(tmp_path / "elsewhere", kubeconfig=cluster.kubeconfig) as nodes:
        nodes.add_node("trn1-1", {"aws.amazon.com/neuron": "16"})

        cluster.create(JOBS, job("train", "echo from afar"))
        cluster.wait_for(lambda: cluster.events("Completed"), "the Job to complete")

        assert cluster.log(name_of(cluster.pods()[0])) == "from afar\n"
        assert list((tmp_path / "elsewhere" / "logs").iterdir())
        with pytest.raises(RuntimeError, match=r"A real API server has no faults on demand\."):
            nodes.fault("GET", status=503)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_nodes_can_be_a_program_of_their_own(cluster: Cluster, ending: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.cluster", "--kubeconfig", str(cluster.kubeconfig), "--node", "a,gpu=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline().startswith(f"export KUBECONFIG={cluster.kubeconfig}")
        assert cluster.objects(NODES)[0]["status"]["capacity"]["gpu"] == "1"
        cluster.create(PODS, pod("forever", f"echo $$$$ > {tmp_path}/pid; echo started; sleep 60"))
        cluster.wait_for_phase("forever", "Running")
        cluster.wait_for(lambda: "started" in cluster.log("forever"), "the pod to speak")

        program.send_signal(ending)

    assert program.returncode == (0 if ending == signal.SIGTERM else -ending)
    process = int((tmp_path / "pid").read_text())
    cluster.wait_for(lambda: not psutil.pid_exists(process), "the pod's process to be gone")


def test_nodes_end_even_if_their_control_plane_is_gone(tmp_path: Path) -> None:
    with Cluster(tmp_path / "here") as cluster:
        nodes = Cluster(tmp_path / "elsewhere", kubeconfig=cluster.kubeconfig)
        nodes.__enter__()
        nodes.add_node("orphan")
        cluster.create(PODS, pod("forever", "sleep 60"))
        cluster.wait_for_phase("forever", "Running")

    nodes.__exit__(None, None, None)

    assert not [thread for thread in threading.enumerate() if thread.name == "cluster"]
