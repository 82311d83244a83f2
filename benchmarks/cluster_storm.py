"""Many whole runs at once, each of seven steps in their own pods: checks that every step runs exactly once.

python benchmarks/cluster_storm.py [--runs 200] [--run-pods 50] [--step-pods 60]

All runs are launched at once; the nodes' capacity decides how many of their pods run at once, and the others wait in
the cluster. Everything is as in benchmarks/cluster.py except the image (warm_image.py): its containers are forks of a
process that has imported Dagster already. Each step leaves a file for each time that it runs, so the count does not
depend on Dagster. It prints the runs that failed, the steps that were lost or ran twice, wall and CPU seconds, the
runs' requests to the API server for each check, and PostgreSQL's connections at the peak.
"""

import argparse
import json
import os
import re
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from cluster import NUM_STEPS, servers
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from warm_image import warm_image

from tests.cluster.checkout import CHECKOUT, ROOT
from tests.cluster.deployment import Deployment
from tests.cluster.pod_setup import Image

CHECK_SECONDS = 15
"""Seconds between two checks of a run's pods: the default of pods.check_interval_seconds."""
MODULES = [
    "dagster._cli",
    "dagster_aws.s3",
    "dagster_k8s",
    "dagster_postgres",
    "fine_tune_assets.kubernetes.executor.run_executor",
]
TAINT = {"key": "runs", "effect": "NoSchedule"}
TOLERATION = {"key": "runs", "operator": "Exists"}
ON_RUN_NODE = {"pod_spec_config": {"node_selector": {"for": "runs"}, "tolerations": [TOLERATION]}}
# Only Dagster's side sends these verbs and kinds: the cluster's own parts list without a namespace.
ASKED = re.compile(
    r"(GET .*/namespaces/\w+/(?:pods|jobs|events)|GET .*/jobs/\S+|POST .*/namespaces/\w+/jobs|DELETE .*/jobs/\S+)$"
)


def main() -> None:
    """Launch them all, wait, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="runs at once")
    parser.add_argument("--run-pods", type=int, default=50, help="pods of runs that the cluster has room for")
    parser.add_argument("--step-pods", type=int, default=60, help="pods of steps that the cluster has room for")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers(Path(name), step_pods=arguments.step_pods) as deploy:
        deployment = deploy("ours")
        room = {"cpu": "1000", "memory": "4000Gi", "pods": str(arguments.run_pods)}
        deployment.cluster.add_node("for-runs", room, {"for": "runs"}, (TAINT,))
        before = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
        with warm_image(Path(name, "image"), [*MODULES, deployment.module], deployment.environment) as programs:
            deployment.cluster.images["local/*"] = Image(bin=programs, environment=CHECKOUT.environment)
            os.environ |= deployment.environment
            with deployment.instance() as instance, connections(deployment.database) as peak:
                storm(deployment, instance, arguments.runs)
        print(f"PostgreSQL had {peak[0]} connections at most")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        pods = after.ru_utime + after.ru_stime - before[0].ru_utime - before[0].ru_stime
        own = time.process_time() - before[1]
        each = pods / arguments.runs / (NUM_STEPS + 1)
        print(f"CPU s: pods {pods:.0f}, {each:.2f} each; the cluster itself and the launches {own:.0f}")


def storm(deployment: Deployment, instance: DagsterInstance, count: int) -> None:
    """Run them all, from launch to end."""
    started = time.monotonic()
    ids = launch(deployment, instance, count)
    print(f"{count} runs launched in {time.monotonic() - started:.0f} s", flush=True)
    wait(deployment, instance, started)
    seconds = time.monotonic() - started
    runs = [record for record in instance.get_run_records() if record.dagster_run.run_id in ids]
    failed = [record for record in runs if record.dagster_run.status != DagsterRunStatus.SUCCESS]
    ran = Counter(path.name.rpartition("-")[0] for path in (deployment.home.parent / "ran").iterdir())
    twice = [name for name, times in ran.items() if times > 1]
    print(
        f"{count} runs of {NUM_STEPS} steps at once: {seconds:.0f} s, {len(failed)} runs failed, "
        f"{count * NUM_STEPS - len(ran)} steps lost, {len(twice)} run twice"
    )
    for record in failed[:3]:
        print(
            record.dagster_run.run_id,
            [entry.user_message for entry in instance.all_logs(record.dagster_run.run_id)][-5:],
        )
    looks = sum((record.end_time or 0) - (record.start_time or 0) for record in runs) / CHECK_SECONDS
    print_requests(deployment, count, looks)


def launch(deployment: Deployment, instance: DagsterInstance, count: int) -> set[str]:
    """Launch runs of the chain as a daemon does, one after another, and return their ids."""
    repository = ReconstructableRepository.for_module(deployment.module, "definitions", str(ROOT))
    job = repository.get_reconstructable_job("chain")
    definition, origin = job.get_definition(), job.get_python_origin()
    tags = {"dagster-k8s/config": json.dumps(ON_RUN_NODE)}
    runs = [instance.create_run_for_job(definition, job_code_origin=origin, tags=tags) for _ in range(count)]
    for run in runs:
        instance.launch_run(run.run_id, None)  # type: ignore[arg-type]  # K8sRunLauncher looks at no workspace
    return {run.run_id for run in runs}


def wait(deployment: Deployment, instance: DagsterInstance, started: float) -> None:
    """Wait until all runs have ended, and print a line every minute."""
    said = started
    while True:
        deployment.cluster.raise_errors()
        left = {status: instance.get_runs_count(RunsFilter(statuses=[status])) for status in IN_PROGRESS_RUN_STATUSES}
        if not any(left.values()):
            return
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(
                f"{said - started:.0f} s:", {status.value: count for status, count in left.items() if count}, flush=True
            )
        time.sleep(1)


def print_requests(deployment: Deployment, count: int, looks: float) -> None:
    """Print the runs' requests to the API server."""
    assert deployment.cluster.server is not None
    asked = [text for text in deployment.cluster.server.requests if ASKED.match(text)]
    kinds = Counter(re.sub(r"/jobs/\S+", "/jobs/NAME", text).replace("/namespaces/default", "") for text in asked)
    print(f"requests for each look of a run ({looks:.0f} looks, one in {CHECK_SECONDS} s):")
    for kind, number in kinds.most_common():
        print(f"  {kind}: {number}, {number / looks:.2f} for a look, {number / count:.1f} for a run")


@contextmanager
def connections(database: str) -> Iterator[list[int]]:
    """A list with one number: the most connections that were open at one time so far."""
    peak, over = [0], threading.Event()

    def sample() -> None:
        connection = psycopg2.connect(database)
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not over.wait(0.5):
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
                peak[0] = max(peak[0], cursor.fetchone()[0] - 1)
        connection.close()

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
