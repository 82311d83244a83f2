"""Merging within one S3 store: no weight is written to the local disk, and no unchanged weight is uploaded.

The base is read in ranges and hashed; the server copies the weights that no adapter targets. Then the result is read
again and proven like any other merge.
"""

from collections.abc import Sequence
from pathlib import Path

from neuron_ops.store.artifacts import Artifact
from neuron_ops.store.manifest import FileRecord
from neuron_ops.store.s3_files import S3Files
from neuron_ops.weights.lora_targets import WeightedAdapter
from neuron_ops.weights.merge_plan import OTHER_WEIGHTS, PlannedFile, plan_merge
from neuron_ops.weights.merge_proof import MergeProof, verify_folders
from neuron_ops.weights.merge_report import MergeReport
from neuron_ops.weights.merging import write_merged
from neuron_ops.weights.s3_objects import S3Folder, S3Upload
from neuron_ops.weights.safetensors_io import read_model_folder
from neuron_ops.weights.upload_parts import plan_parts


def merge_in_s3(
    files: S3Files, base: Artifact, adapters: Sequence[WeightedAdapter], out: Path, destination: str
) -> tuple[MergeReport, MergeProof, tuple[FileRecord, ...]]:
    """Write weight files below `destination` in the store, all others to `out`; return the weight files' records."""
    base.check_sizes()
    source = S3Folder(files, f"{base.address}/{base.manifest.data}")
    small = [file.name for file in base.manifest.files if Path(file.name).suffix not in OTHER_WEIGHTS]
    with base.local(names=small) as folder:
        before = read_model_folder(folder, source.open)
        plan = plan_merge(before, adapters)

        def create(file: PlannedFile) -> S3Upload:
            name = file.source.path.name
            return S3Upload(files, f"{destination}/{name}", plan_parts(file), source, name)

        report = write_merged(plan, out, create)
        after = read_model_folder(out, S3Folder(files, destination).open)
        proof = verify_folders(before, after, report)
    weights = {file.path.name for file in after.files}
    return (
        report,
        proof,
        tuple(
            FileRecord(name=file.name, bytes=file.bytes, digest=str(file.xxh3_128))
            for file in report.files
            if file.name in weights
        ),
    )
