"""Dagster as it runs in a cluster: storage in PostgreSQL, K8sRunLauncher, compute logs in S3.

The command line below is what a person or a daemon outside the cluster would use; run and step pods are the cluster's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import DagsterEvent

from tests.cluster.checkout import CHECKOUT, IMAGE, ROOT
from tests.cluster.cluster import Cluster
from tests.cluster.kinds import CONFIG_MAPS, SERVICE_ACCOUNTS
from tests.cluster.objects import Object

CONFIG_MAP, ACCOUNT = "dagster-instance", "dagster"
FINISHED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


@dataclass
class Deployment:
    """One Dagster instance that launches on one cluster."""

    cluster: Cluster
    home: Path
    database: str
    """URL of its PostgreSQL database."""
    log_bucket: str
    environment: Mapping[str, str]
    """What every pod, and every command, gets on top of its own: how to reach S3."""
    module: str = "tests.cluster.definitions"
    """The code location."""
    settings: Object = field(default_factory=dict)
    """More sections of dagster.yaml, such as run_monitoring."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self._instance_settings())  # JSON is YAML
        (self.home / "dagster.yaml").write_text(content, encoding="utf-8")
        workspace = {"load_from": [{"python_module": {"module_name": self.module, "location_name": "tests"}}]}
        (self.home / "workspace.yaml").write_text(json.dumps(workspace), encoding="utf-8")
        self.cluster.create(CONFIG_MAPS, {"metadata": {"name": CONFIG_MAP}, "data": {"dagster.yaml": content}})
        self.cluster.create(SERVICE_ACCOUNTS, {"metadata": {"name": ACCOUNT}})

    def instance(self) -> DagsterInstance:
        return DagsterInstance.from_config(str(self.home))

    def launch(self, job: str) -> str:
        """Launch a run as the UI does: a run pod starts the step pods. Returns the run's id."""
        before = {run.run_id for run in self.runs()}
        done = self.start("job", "launch", "-w", str(self.home / "workspace.yaml"), "-j", job)
        output, _ = done.communicate(timeout=300)
        new = [run.run_id for run in self.runs() if run.run_id not in before]
        if done.returncode or len(new) != 1:
            raise RuntimeError(f"dagster job launch exited with {done.returncode}:\n{output}")
        return new[0]

    def execute(self, job: str) -> "subprocess.Popen[str]":
        """Run the job's plan in a process here, and its steps in pods."""
        return self.start("job", "execute", "-m", self.module, "-j", job)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """A `dagster` command, in a process group of its own."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "dagster"), *arguments],
            cwd=ROOT,
            env={**os.environ, **CHECKOUT.environment, **self.environment, "DAGSTER_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def runs(self) -> list[DagsterRun]:
        with self.instance() as instance:
            return list(instance.get_runs())

    def wait_for_end(self, run_id: str, seconds: float = 300.0) -> DagsterRun:
        """The run once it is over."""
        end = time.monotonic() + seconds
        with self.instance() as instance:
            while time.monotonic() < end:
                self.cluster.raise_errors()
                run = instance.get_run_by_id(run_id)
                if run is not None and run.status in FINISHED:
                    return run
                time.sleep(0.3)
        raise TimeoutError(f"run {run_id} is not over after {seconds:g} s")

    def events(self, run_id: str, *kinds: DagsterEventType) -> list[DagsterEvent]:
        with self.instance() as instance:
            entries = instance.all_logs(run_id, of_type=set(kinds) or None)
        return [entry.dagster_event for entry in entries if entry.dagster_event is not None]

    def _instance_settings(self) -> Object:
        launcher = {
            "load_incluster_config": False,
            "kubeconfig_file": str(self.cluster.kubeconfig),
            "service_account_name": ACCOUNT,
            "job_image": IMAGE,
            "image_pull_policy": "IfNotPresent",
            "instance_config_map": CONFIG_MAP,
            "dagster_home": str(self.home),
            "job_namespace": self.cluster.namespace,
            "env_vars": [f"{name}={value}" for name, value in self.environment.items()],
        }
        logs = {"bucket": self.log_bucket, "prefix": "logs", "upload_interval": 2, "local_dir": str(self.home / "logs")}
        return {
            "storage": {"postgres": {"postgres_url": self.database}},
            "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
            "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
            "compute_logs": {
                "module": "dagster_aws.s3.compute_log_manager",
                "class": "S3ComputeLogManager",
                "config": logs,
            },
            "telemetry": {"enabled": False},
            **self.settings,
        }


def stop(process: "subprocess.Popen[str]") -> str:
    """End a command as Ctrl-C does, kill it if it does not, and return what it printed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        return process.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
