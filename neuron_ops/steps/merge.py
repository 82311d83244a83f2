"""`merge` makes `merged_model`: the base with the adapter in it, as a complete Hugging Face model folder.

The other files of the model folder belong here: chat template, end of turn, card. Merging and proving the weights
belongs to weights/, doing so within S3 to merge_in_s3.
"""

import json
import logging
from pathlib import Path
from typing import Any

from neuron_ops.models.config import read_config
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.checks import Verdict
from neuron_ops.steps.merge_in_s3 import merge_in_s3
from neuron_ops.steps.merged_card import write_model_card
from neuron_ops.store.manifest import FileRecord
from neuron_ops.store.s3_files import S3Files
from neuron_ops.weights.lora import low_rank_parts, read_adapter
from neuron_ops.weights.lora_targets import WeightedAdapter
from neuron_ops.weights.merge_proof import MergeProof, verify_merge
from neuron_ops.weights.merge_report import MergeReport
from neuron_ops.weights.merging import merge_adapters

log = logging.getLogger(__name__)

TEMPLATE, SPECIAL_TOKENS = "chat_template.jinja", "special_tokens.json"
GENERATION_CONFIG = "generation_config.json"


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Merge, read the result again to prove it, and write the model card."""
    with lineage.require("consolidated_weights").local() as adapter:
        report, proof, placed = _merge(lineage, adapter, out)
        targets = {f"{module}.weight" for module in low_rank_parts(read_adapter(adapter))}
    _add_template(lineage, out)
    _add_end_of_turn(lineage, out)
    write_model_card(lineage, out)
    log.info("merged %d tensors, %d bytes of the base are unchanged", proof.num_changed, proof.bytes_equal_to_base)
    return program.StepResult(
        metrics={
            "changed_tensors": proof.num_changed,
            "bytes_changed": proof.bytes_changed,
            "bytes_equal_to_base": proof.bytes_equal_to_base,
            "max_rounding_error": report.max_abs_error,
            "smallest_change_norm": min(tensor.delta_norm for tensor in report.changed),
        },
        verdicts={
            "changed_tensors_are_the_targets": _changed_are_targets(report, targets),
            "untouched_bytes_are_the_bases": _untouched_equal_base(report, proof.bytes_equal_to_base),
        },
        placed=placed,
    )


def _merge(lineage: Lineage, adapter: Path, out: Path) -> tuple[MergeReport, MergeProof, tuple[FileRecord, ...]]:
    """Merge and prove. In S3, weight files go directly to their final place, and only their records are returned."""
    base, adapters, files = lineage.require("base_model"), [WeightedAdapter(adapter)], lineage.store.files
    if isinstance(files, S3Files):
        return merge_in_s3(files, base, adapters, out, f"{lineage.provenance('merged_model').address}/{out.name}")
    with base.local() as folder:
        report = merge_adapters(folder, adapters, out)
        return report, verify_merge(folder, out, report, reread_base=True), ()


def _changed_are_targets(report: MergeReport, targets: set[str]) -> Verdict:
    changed = {tensor.name for tensor in report.changed}
    return Verdict(
        passed=changed == targets,
        description=f"{len(changed)} tensors changed, {len(targets)} are targeted, each change is larger than zero",
        values={"changed": len(changed), "targeted": len(targets)},
    )


def _untouched_equal_base(report: MergeReport, equal: int) -> Verdict:
    expected = report.bytes_copied
    return Verdict(
        passed=equal == expected,
        description=f"{equal} of {expected} bytes outside the changed tensors were read again and equal the base's",
        values={"equal": equal, "expected": expected},
    )


def _add_template(lineage: Lineage, out: Path) -> None:
    """Add training's template if the base has another one or none: without it nobody could prompt the model correctly.

    The file takes precedence over a template in tokenizer_config.json.
    """
    has_one = (out / TEMPLATE).is_file() or "chat_template" in _read_json(out / "tokenizer_config.json")
    if lineage.recipe.dataset.chat_template != "model" or not has_one:
        (out / TEMPLATE).write_bytes(lineage.require("tokenized_dataset").read(TEMPLATE))


def _add_end_of_turn(lineage: Lineage, out: Path) -> None:
    """Make generation stop at the end-of-turn token that training taught the model.

    A base model without chat training does not name this token: Llama 3.1 8B stops only at its end of text, and would
    go on generating.
    """
    taught = json.loads(lineage.require("tokenized_dataset").read(SPECIAL_TOKENS))["end_of_turn"]["id"]
    model = read_config(out)
    # transformers derives a missing generation config from these fields, and ignores them once the file exists.
    derived = {name: model[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in model}
    config = _read_json(out / GENERATION_CONFIG) or derived
    named = config.get("eos_token_id")
    ends = named if isinstance(named, list) else [named] if named is not None else []
    if taught not in ends:
        text = json.dumps({**config, "eos_token_id": [*ends, taught]}, indent=2)
        (out / GENERATION_CONFIG).write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:  # Any: whatever a published config holds
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


if __name__ == "__main__":
    program.main("merge", build)
