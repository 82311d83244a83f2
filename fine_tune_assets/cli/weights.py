"""`fine-tune consolidate` and `fine-tune merge`: the two weight programs on any folders, outside Dagster.

Arguments, progress and the last line belong here; the work belongs to neuron_ops/weights.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from neuron_ops.errors import InvalidInput

if TYPE_CHECKING:
    from neuron_ops.weights.lora_targets import WeightedAdapter
    from neuron_ops.weights.merge_proof import MergeProof
    from neuron_ops.weights.merge_report import MergeReport

Progress = Callable[[int, int], None]


def _local(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Refuse a URL, which would become a folder of that name."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        raise InvalidInput(
            f"{path} is not a local folder. In a store on S3 the assets consolidated_weights and merged_model do this."
        )
    return path


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse nan, which no range excludes."""
    if value != value:
        raise InvalidInput(f"--max-shard-gb is {value}. Give a size in GB, such as 5.")
    return value


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), callback=_local)
@click.argument("out", type=click.Path(path_type=Path), callback=_local)
@click.option("--base-model", required=True, metavar="ID", help="Base model that the adapter names, by its hub id.")
@click.option("--revision", metavar="COMMIT", help="Commit of the base model.")
@click.option("--adapter", default="default", show_default=True, help="Name of the adapter in the checkpoint.")
@click.option(
    "--max-shard-gb",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 1e6, min_open=True),
    callback=_number,
    help="Largest weights file of a full model, in GB.",
)
@click.option(
    "--replicas",
    default="equal",
    show_default=True,
    type=click.Choice(["equal", "first"]),
    help="For a full model's tensors whose copies differ between ranks: refuse them, or take the first rank's.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be written; write nothing.")
def consolidate(
    checkpoint: Path,
    out: Path,
    base_model: str,
    revision: str | None,
    adapter: str,
    max_shard_gb: float,
    replicas: Literal["equal", "first"],
    dry_run: bool,
) -> None:
    """Turn CHECKPOINT into the new folder OUT, which PEFT or transformers loads.

    CHECKPOINT is one checkpoint of optimum-neuron (an adapter or a full model), or a PEFT or transformers folder.
    """
    clean_up_on_signals()
    from neuron_ops.weights.consolidation import BaseModelName, consolidate_checkpoint  # 30 CPU ms

    with _progress("consolidating") as progress:
        report = consolidate_checkpoint(
            checkpoint,
            out,
            base_model=BaseModelName(base_model, revision),
            adapter=adapter,
            max_shard_bytes=int(max_shard_gb * 1e9),
            replicas=replicas,
            progress=progress,
            dry_run=dry_run,
        )
    verb = "would write" if dry_run else "wrote"
    click.echo(
        f"{verb} {out}: {len(report.files)} files, {sum(file.bytes for file in report.files):,} bytes; "
        f"{report.kind} from {report.layout} (TP {report.tensor_parallel_size}, PP {report.pipeline_parallel_size}), "
        f"{report.num_tensors} tensors, {report.num_parameters:,} parameters, "
        f"{report.num_replicas_compared} replicas compared"
    )
    for difference in report.differing:
        click.echo(
            f"{difference.name}: the first rank's copy; the others differ by at most {difference.largest:.3g} where "
            f"values reach {difference.magnitude:.3g}"
        )


@click.command()
@click.argument("base", type=click.Path(path_type=Path), callback=_local)
@click.argument("out", type=click.Path(path_type=Path), callback=_local)
@click.option(
    *("--adapter", "adapters"),
    multiple=True,
    required=True,
    metavar="FOLDER[=WEIGHT]",
    help="PEFT adapter folder, and the factor of its change (default 1). May be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be written; write nothing.")
def merge(base: Path, out: Path, adapters: tuple[str, ...], dry_run: bool) -> None:
    """Merge adapters into the model folder BASE and write the new folder OUT.

    The result is read again and proven: exactly the targeted tensors differ, and every other byte equals the base's.
    """
    clean_up_on_signals()
    _keep_blas_single()
    from neuron_ops.weights.merging import merge_adapters  # numpy, after the line above: 100 CPU ms

    if out.resolve().is_relative_to(base.resolve()):
        raise InvalidInput(f"{out} is inside the base model's folder {base}, which must not change. Name another one.")
    weighted = [_weighted(text) for text in adapters]
    if dry_run:
        _tell_merge("would write", out, merge_adapters(base, weighted, out, dry_run=True), weighted)
        return
    report, proof = _merge_and_prove(base, weighted, out)
    _tell_merge("wrote", out, report, weighted)
    click.echo(
        f"proven: {proof.num_changed} tensors differ from the base and {proof.bytes_equal_to_base:,} bytes "
        f"equal it; largest rounding error {report.max_abs_error:.3g}"
    )
    click.echo(f"model card: {out / 'README.md'}")


def _merge_and_prove(base: Path, adapters: "list[WeightedAdapter]", out: Path) -> "tuple[MergeReport, MergeProof]":
    """Merge, prove and write the card. The folder gets its name last, so an existing one is proven and has a card."""
    # numpy, as above: 100 CPU ms that no other command should pay
    from neuron_ops.weights.folders import new_folder
    from neuron_ops.weights.merge_card import write_merge_card
    from neuron_ops.weights.merge_plan import plan_merge
    from neuron_ops.weights.merge_proof import verify_merge
    from neuron_ops.weights.merging import write_folder
    from neuron_ops.weights.safetensors_io import read_model_folder

    plan = plan_merge(read_model_folder(base), adapters)
    with new_folder(out) as partial:
        with _progress("merging") as progress:
            report = write_folder(plan, partial, progress)
        with _progress("verifying") as progress:
            proof = verify_merge(base, partial, report, progress=progress)
        write_merge_card(base, adapters, report, partial, out.name)
    return report, proof


def _tell_merge(verb: str, out: Path, report: "MergeReport", adapters: "list[WeightedAdapter]") -> None:
    from neuron_ops.weights.lora import read_adapter_config  # 13 CPU ms

    size = sum(file.bytes for file in report.files)
    click.echo(
        f"{verb} {out}: {len(report.files)} files, {size:,} bytes; "
        f"{len(report.changed)} tensors changed, {report.bytes_copied:,} bytes copied from the base"
    )
    for adapter in adapters:
        named = read_adapter_config(adapter.path / "adapter_config.json").get("base_model_name_or_path")
        # Only a person can tell whether the base is that model: here only shapes can be compared.
        click.echo(f"{adapter.path} says that it was trained on {named or 'a base that it does not name'}")


def clean_up_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, so that it removes what it has half written."""

    def unwind(number: int, frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, unwind)


def _keep_blas_single() -> None:
    """Give numpy's BLAS one thread; it reads this when numpy is imported. A merge's blocks are small, and more threads
    would only spin."""
    os.putenv("OPENBLAS_NUM_THREADS", "1")


def _weighted(text: str) -> "WeightedAdapter":
    from neuron_ops.weights.lora_targets import WeightedAdapter  # 13 CPU ms

    folder, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return WeightedAdapter(Path(text))
    try:
        return WeightedAdapter(Path(folder), float(weight))
    except ValueError:
        raise InvalidInput(
            f"--adapter {text!r}: {weight!r} is not a number. Write FOLDER=WEIGHT, such as a/=0.5."
        ) from None


@contextmanager
def _progress(label: str) -> Iterator[Progress | None]:
    """A progress bar on a terminal; nothing in a file or a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield advance
