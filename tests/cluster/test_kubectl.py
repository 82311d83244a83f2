"""kubectl works against the stand-in as against any cluster."""

import shutil
import subprocess

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import job
from tests.cluster.kinds import JOBS


def kubectl(cluster: Cluster, *arguments: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("NO KUBECTL: that it works against the stand-in was not tested.")
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), f"--cache-dir={cluster.root}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_kubectl_shows_what_there_is(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("hello", "echo hello"))
    cluster.wait_for(lambda: cluster.events("Completed"), "the Job to complete")

    name = cluster.pods()[0]["metadata"]["name"]
    assert [line.split()[:3] for line in kubectl(cluster, "get", "pods").splitlines()] == [
        ["NAME", "READY", "STATUS"],
        [name, "0/1", "Completed"],
    ]
    assert "Ready" in kubectl(cluster, "get", "nodes")
    assert kubectl(cluster, "logs", "job/hello") == "hello\n"
    assert "Successfully assigned default/" in kubectl(cluster, "describe", "pod", name)


def test_kubectl_deletes_a_job_with_its_pods(cluster: Cluster) -> None:
    cluster.add_node("node-a")
    cluster.create(JOBS, job("hello", "sleep 60", template={"terminationGracePeriodSeconds": 1}))
    cluster.wait_for(cluster.pods, "the pod")

    assert kubectl(cluster, "delete", "job", "hello") == 'job.batch "hello" deleted\n'

    cluster.wait_for(lambda: not cluster.pods(), "the pods to be gone")
