"""Builds the training of a step on several nodes from the settings and the pod that this process runs in.

Following it to its end belongs to launcher, the created objects to manifests.
"""

import re
import socket
import sys
from collections.abc import Callable

from fine_tune_assets.kubernetes.api.client import NAMESPACE_FILE, connect
from fine_tune_assets.kubernetes.diagnosis.watch import team_limits
from fine_tune_assets.kubernetes.multi_node.launcher import PodTraining
from fine_tune_assets.kubernetes.multi_node.manifests import Training
from fine_tune_assets.kubernetes.pods.settings import Pods
from fine_tune_assets.settings import read_settings
from neuron_ops.errors import InvalidInput
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.commands import flags
from neuron_ops.steps.table import Step

PROGRESS = re.compile(r"\[node 0\] \d\d:\d\d:\d\d (__main__|neuron_ops\S*) (?P<message>.+)")
"""A log line of a step's program, as neuron_ops.steps.program formats it; only the first rank logs progress."""


def make_pod_training(
    step: Step, lineage: Lineage, pods: Pods, attempt: str, report: Callable[[str], None]
) -> PodTraining:
    """The training of a step in this pod; `attempt` makes its name unique in the namespace.

    Raises:
        InvalidInput: this process does not run in a pod, or may not read it.
    """
    settings = read_settings()
    namespace, name = _own_pod(settings.pod)
    client = connect(settings.kubeconfig, namespace)
    launcher = client.find("Pod", name)
    if launcher is None:
        raise InvalidInput(
            f"Pod {name!r} is not in namespace {namespace!r}, but this step starts its nodes from its own pod. "
            "Set FINE_TUNE_OWN_POD to NAMESPACE/NAME of the pod."
        )
    words = (
        step.verb,
        *flags(step, lineage.recipe.model_dump_json(), lineage.store.url, lineage.raw.url, lineage.dataset_version),
    )
    # With the pod's id: a pod that replaces this one creates another Job, because this Job is deleted with this pod.
    name = f"fine-tune-{step.verb}-{attempt}-{launcher['metadata']['uid'][:6]}"
    training = Training(name, lineage.recipe.hardware, words, launcher)

    def write(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()
        if progress := PROGRESS.match(line):
            report(progress["message"])

    return PodTraining(training, client, team_limits(pods), report, write)


def _own_pod(setting: str | None) -> tuple[str, str]:
    if setting is not None:
        namespace, _, name = setting.partition("/")
        return namespace, name
    try:
        # Kubernetes names a container's host after its pod.
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip(), socket.gethostname()
    except OSError as error:
        raise InvalidInput(
            "FINE_TUNE_DEPLOYMENT is kubernetes, but this process does not run in a pod "
            f"({NAMESPACE_FILE}: {error.strerror}). Set it to local to start the nodes of the training on this machine."
        ) from error
