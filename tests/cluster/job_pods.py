"""The pods of a Job: which are missing, and what each is made of."""

from collections.abc import Iterable

from tests.cluster.job_outcome import INDEX, Tally
from tests.cluster.objects import Object, dig, merge_patch, name_of, namespace_of, owner_reference, random_suffix


def missing_indexes(job: Object, active: list[Object], tally: Tally) -> Iterable[int]:
    """Which indexes (any number, for a plain Job) need a pod now."""
    parallelism, completions = dig(job, "spec.parallelism", 1), dig(job, "spec.completions")
    room = parallelism - len(active)
    if dig(job, "spec.completionMode") == "Indexed":
        taken = tally.indexes() | {int(pod["metadata"]["annotations"][INDEX]) for pod in active}
        return [index for index in range(completions) if index not in taken][: max(room, 0)]
    if completions is None:
        return range(0 if tally.succeeded() else room)
    return range(min(room, completions - len(tally.succeeded()) - len(active)))


def new_pod(job: Object, index: int) -> Object:
    template, indexed = job["spec"]["template"], dig(job, "spec.completionMode") == "Indexed"
    stem = f"{name_of(job)}-{index}" if indexed else name_of(job)
    metadata: Object = {
        "name": f"{stem[:57]}-{random_suffix()}",
        "namespace": namespace_of(job),
        "ownerReferences": [owner_reference(job)],
    }
    spec = template["spec"]
    if indexed:
        metadata |= {"annotations": {INDEX: str(index)}, "labels": {INDEX: str(index)}}
        spec = {**spec, "hostname": stem, "containers": [_with_index(c) for c in spec["containers"]]}
    return {"metadata": merge_patch(template.get("metadata") or {}, metadata), "spec": spec}


def _with_index(container: Object) -> Object:
    source = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    return {**container, "env": [*(container.get("env") or []), {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}]}
