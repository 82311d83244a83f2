"""Logs of containers: why there is none yet, their last lines, and what comes after a moment."""

import re
import subprocess

import urllib3

from tests.cluster.cluster import Cluster
from tests.cluster.probe_pods import run, start, waiting_reason


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
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)


def test_a_log_goes_on_after_the_line_that_was_read_last(cluster: Cluster) -> None:
    run(cluster, "seq 300")
    stamped = cluster.api.read_namespaced_pod_log("probe", "default", timestamps=True, _preload_content=False)
    lines = stamped.data.decode().splitlines()

    rest = urllib3.request("GET", f"{_log_url(cluster, 'probe')}?sinceTime={lines[100].split(' ')[0]}")

    assert rest.data.decode().split() == [str(number) for number in range(101, 301)]


def _log_url(cluster: Cluster, pod: str) -> str:
    return f"{cluster.api.api_client.configuration.host}/api/v1/namespaces/default/pods/{pod}/log"


def _kubectl(cluster: Cluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True)
