"""The README.md of a model that was merged by hand: what the folders themselves say about their lineage."""

from collections.abc import Sequence
from pathlib import Path

from neuron_ops.models.card import CARD, inherited_fields, write_card
from neuron_ops.weights.byte_ranges import file_digest
from neuron_ops.weights.lora import read_adapter
from neuron_ops.weights.lora_targets import WeightedAdapter
from neuron_ops.weights.merge_report import MergeReport


def write_merge_card(
    base: Path, adapters: Sequence[WeightedAdapter], report: MergeReport, folder: Path, title: str
) -> None:
    """Write the card into `folder`; the base is named as its adapters name it, since a folder has no id."""
    read = [read_adapter(adapter.path) for adapter in adapters]
    named = {
        str(adapter.config["base_model_name_or_path"]): adapter.config.get("revision")
        for adapter in read
        if adapter.config.get("base_model_name_or_path")
    }
    rows = [("base model", name + (f", revision {revision}" if revision else "")) for name, revision in named.items()]
    for weighted, adapter in zip(adapters, read, strict=True):
        digest = file_digest(adapter.file.path, adapter.file.path.name).xxh3_128
        lora = f"r {adapter.config.get('r', 8)}, alpha {adapter.config.get('lora_alpha', 8)}"
        rows.append((f"adapter {weighted.path.name}", f"weight {weighted.weight:g}, {lora}, xxh3_128 {digest}"))
    rows.append(("changed", f"{len(report.changed)} tensors, {report.bytes_computed:,} bytes"))
    rows.append(("copied from the base", f"{report.bytes_copied:,} bytes"))
    rows.append(("largest rounding error", f"{report.max_abs_error:.3g}"))
    card = base / CARD
    inherited = inherited_fields(card.read_bytes() if card.is_file() else b"")
    write_card(folder, title=title, base_models=list(named), inherited=inherited, rows=rows)
