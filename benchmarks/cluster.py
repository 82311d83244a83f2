"""What the Kubernetes deployment costs beyond dagster_k8s's own executor, and what it asks of the API server.

python benchmarks/cluster.py [--runs 5] [--watched 200]

Everything runs on the test cluster of tests/cluster: pods are processes of this machine, PostgreSQL and S3 are real
servers. It prints the CPU seconds of loading the code location in a pod; those of one step, command and pod together,
in turn with the stock executor; the requests of each check of a run; and both for many watched runs. Many whole runs
belong to cluster_storm.py.
"""

import argparse
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestration import cpu, paired

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# The commands that are measured, and the pods, import the same checkout.
os.environ["PYTHONPATH"] = str(ROOT)

from kubernetes.client import ApiClient  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

from fine_tune_assets.kubernetes.api.client import Client  # noqa: E402
from fine_tune_assets.kubernetes.diagnosis.observer import Observer  # noqa: E402
from fine_tune_assets.kubernetes.diagnosis.watch import Limits  # noqa: E402
from tests.cluster import postgres  # noqa: E402
from tests.cluster.checkout import CHECKOUT  # noqa: E402
from tests.cluster.cluster import Cluster  # noqa: E402
from tests.cluster.deployment import Deployment  # noqa: E402
from tests.cluster.kinds import JOBS  # noqa: E402

NUM_STEPS = 7
PODS = {"FINE_TUNE_DEPLOYMENT": "kubernetes", "FINE_TUNE_STORE": "s3://bucket/store"}


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs of each paired measurement")
    parser.add_argument("--watched", type=int, default=200, help="watched runs of seven steps, without Dagster")
    arguments = parser.parse_args()
    load(arguments.runs)
    with tempfile.TemporaryDirectory() as name:
        watch_many(Path(name, "watched"), arguments.watched)
        with servers(Path(name)) as deploy:
            steps(deploy, arguments.runs)


def load(runs: int) -> None:
    """Loading in a step's pod, against Dagster alone and against a location with the stock executor."""
    python = [sys.executable, "-c"]
    environment = {**os.environ, **PODS, "EXECUTOR": "stock", "CLUSTER_TEST_FOLDER": "/tmp"}
    environment.pop("DAGSTER_HOME", None)
    empty = [*python, "import dagster; dagster.Definitions()"]
    ours = [*python, "import fine_tune_assets.definitions"]
    stock = [*python, "import dagster, dagster_k8s; dagster.Definitions(executor=dagster_k8s.k8s_job_executor)"]
    floor, mine = paired(runs, lambda: cpu(empty, environment), lambda: cpu(ours, environment))
    _, theirs = paired(runs, lambda: cpu(empty, environment), lambda: cpu(stock, environment))
    print(
        f"load in a pod: dagster alone {floor:.2f} CPU s, our code location {mine:.2f} (ratio {mine / floor:.3f}), "
        f"empty definitions with the stock executor {theirs:.2f} ({runs} pairs)"
    )


def steps(deploy: Callable[[str], Deployment], runs: int) -> None:
    """A chain of seven steps that do nothing, stock and ours in turn."""
    stock, ours = deploy("stock"), deploy("ours")
    theirs, mine = paired(runs, lambda: _chain(stock), lambda: _chain(ours))
    print(
        f"a step that does nothing, command and pod: stock {theirs / NUM_STEPS:.2f} CPU s, "
        f"ours {mine / NUM_STEPS:.2f}, difference {(mine - theirs) / NUM_STEPS:+.2f} ({runs} pairs)"
    )


def watch_many(folder: Path, count: int) -> None:
    """Observers of many runs against one API server: what a check costs, in requests and CPU."""
    with Cluster(folder) as cluster:
        for run in range(count):
            for step in range(NUM_STEPS):
                cluster.create(JOBS, _suspended(f"run-{run}-step-{step}", f"run-{run}"))
        api = ApiClient(cluster.api.api_client.configuration)
        client = Client(api, cluster.namespace)
        watched = [Observer(client, f"run-{run}", Limits(1800, 10, 0.1)) for run in range(count)]
        _look(watched)
        assert cluster.server is not None
        before, used = len(cluster.server.requests), time.thread_time()
        _look(watched)
        used = time.thread_time() - used
        asked = [text for text in cluster.server.requests[before:] if "/namespaces/" in text]
        print(
            f"one look at {count} runs of {NUM_STEPS} steps: {len(asked)} requests, {len(asked) / count:.1f} for a run "
            f"(no pod runs, so each asks for Jobs too), {1000 * used / count:.1f} ms CPU for a run"
        )


def _look(watched: list[Observer]) -> None:
    time.sleep(0.2)
    for run, observer in enumerate(watched):
        for step in range(NUM_STEPS):
            verdict = observer.verdict(f"run-{run}-step-{step}")
            assert verdict.failure is None, verdict


def _suspended(name: str, run: str) -> dict[str, object]:
    labels = {"dagster/run-id": run, "app.kubernetes.io/component": "step_worker"}
    container = {"name": "main", "image": "local/none", "command": ["true"]}
    template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"suspend": True, "template": template}}


def _chain(deployment: Deployment) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = deployment.execute("chain")
    output, _ = command.communicate()
    if command.returncode:
        raise RuntimeError(output)
    cluster = deployment.cluster
    cluster.wait_for(lambda: all(pod["status"]["phase"] == "Succeeded" for pod in cluster.pods()), "pods to end")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def servers(folder: Path, step_pods: int = 110) -> Iterator[Callable[[str], Deployment]]:
    """PostgreSQL, S3 and a cluster for each deployment; yields a function that makes a deployment for an executor."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each request
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    import boto3

    boto3.client("s3").create_bucket(Bucket="bucket")
    clusters: list[Cluster] = []
    with postgres.serve(folder, "max_connections=500") as server:

        def deploy(executor: str) -> Deployment:
            home = folder / f"{executor}-{len(clusters)}"
            cluster = Cluster(home / "cluster", images={"local/*": CHECKOUT})
            clusters.append(cluster.__enter__())
            room = {"cpu": "1000", "memory": "4000Gi", "ephemeral-storage": "40000Gi", "pods": str(step_pods)}
            cluster.add_node("node-a", room)
            environment = {**PODS, "EXECUTOR": executor, "CLUSTER_TEST_FOLDER": str(home)}
            environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            database = postgres.new_database(server)
            return Deployment(cluster, home / "home", database, "bucket", environment, "benchmarks.cluster_chain")

        try:
            yield deploy
        finally:
            for cluster in clusters:
                cluster.__exit__(None, None, None)
            s3.stop()


if __name__ == "__main__":
    main()
