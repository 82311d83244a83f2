"""What every step program shares: four flags, logging, progress to Dagster, errors as exit codes, publishing.

This is one of the two places that read the environment; all other code takes arguments. A new setting is a field of the
recipe, never a flag here.
"""

import argparse
import contextlib
import importlib.metadata
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from neuron_ops.errors import FULL, InvalidInput, OpsError
from neuron_ops.launch.outcome import ERROR_FILE, leave_error
from neuron_ops.launch.process import LAUNCHER_PID, end_without_launcher
from neuron_ops.recipe.file import load_recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.checks import Verdict, decide
from neuron_ops.steps.commands import takes_several, world_command
from neuron_ops.steps.resource_usage import resource_usage
from neuron_ops.steps.table import BY_VERB, Step
from neuron_ops.store.artifacts import ArtifactStore, Writer
from neuron_ops.store.manifest import FileRecord, Manifest, Provenance, Scalar
from neuron_ops.store.raw_datasets import RawDatasets

log = logging.getLogger(__name__)

LOGGERS = ("neuron_ops", "__main__")
"""This project's loggers; a module that runs as the program is called __main__."""

TOOLCHAIN = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's report on the files that it wrote."""

    metrics: dict[str, Scalar]
    """Numbers and short texts to show with the artifact."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Verdicts on the step's checks that metrics alone do not decide, by the check's name."""
    placed: tuple[FileRecord, ...] = ()
    """Files that the step itself made durable at their final place, instead of writing them into the folder."""


Build = Callable[[Lineage, Path], StepResult]
"""Fills a folder with the artifact of a lineage."""


def main(verb: str, build: Build) -> None:
    """Run a step as a program and exit: 0, an OpsError's code, 128 plus a signal's number, or 1 with a traceback."""
    step, arguments = BY_VERB[verb], parse(BY_VERB[verb], sys.argv[1:])

    def body() -> int:
        lineage = open_lineage(arguments)
        _start_every_process(step, lineage)
        make(step, lineage, build)
        return 0

    run_program(body, _dagster())


def run_program(body: Callable[[], int], progress: contextlib.AbstractContextManager[None] | None = None) -> NoReturn:
    """Run a program's body with logging, signal handling, and errors as exit codes, then exit."""
    _configure_logging()
    _end_on_signals()
    with progress or contextlib.nullcontext():
        try:
            status = body()
        except OpsError as error:
            _report_error(error)
            status = error.exit_code
        except OSError as error:
            if error.errno not in FULL:
                raise
            full = InvalidInput(
                f"The disk became full ({error.filename or 'of the store, or of TMPDIR'}), so nothing was published. "
                "Free some space, or give the store (FINE_TUNE_STORE) another place."
            )
            _report_error(full)
            status = full.exit_code
        except SystemExit as stop:  # from a signal, after the body has unwound
            status = int(stop.code or 0)
    # Outside the `with`: Dagster would show an exit through its client as an exception with a stack trace.
    sys.exit(status)


def end_at_once(error: OpsError) -> NoReturn:
    """Report an error and end this process from any of its threads, whatever the other threads wait for."""
    _report_error(error)
    sys.stderr.flush()
    os._exit(error.exit_code)


def launch_name() -> str:
    """A name that all processes of this launch on this machine share, and no other launch at the same time."""
    if "LOCAL_RANK" not in os.environ:
        return str(os.getpid())
    return f"{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"


def node() -> tuple[int, str]:
    """For a step with one process on each node: the node's number, and HOST:PORT of node 0."""
    return _rank(), f"{os.environ.get('MASTER_ADDR', '127.0.0.1')}:{os.environ.get('MASTER_PORT', '0')}"


def _start_every_process(step: Step, lineage: Lineage) -> None:
    """Become the program that starts all processes if a person started a step that takes several.

    A single process would train wrongly.
    """
    if "RANK" in os.environ or not takes_several(step, lineage.recipe):
        return
    # Missing inputs and a finished artifact are found here, before any process starts.
    if lineage.store.find(lineage.require_inputs(step.artifact).address) is None:
        argv = world_command(step, sys.argv[1:])
        os.execv(argv[0], argv)


def make(step: Step, lineage: Lineage, build: Build) -> None:
    """Make the step's artifact unless it is finished; with several ranks, only the first publishes.

    Raises:
        OpsError: any error of the step, its inputs or the store.
    """
    provenance = lineage.require_inputs(step.artifact)
    if lineage.store.find(provenance.address) is not None:
        log.info("%s is finished already; nothing to do", provenance.address)
        return
    log.info("making %s", provenance.address)
    started = time.monotonic()
    try:
        with lineage.store.writer(provenance.address) as writer:
            result = build(lineage, writer.path)
            if _rank() == 0:
                _publish(step, lineage, provenance, writer, result, time.monotonic() - started)
    except (OSError, OpsError):
        # The first process to finish removes the folders of slower writers; a slower writer then finds its folder gone.
        if lineage.store.find(provenance.address) is None:
            raise
        log.info("another process finished %s first; its files are used", provenance.address)


def _publish(
    step: Step, lineage: Lineage, provenance: Provenance, writer: Writer, result: StepResult, seconds: float
) -> None:
    def make_manifest(data: str, files: tuple[FileRecord, ...]) -> Manifest:
        return Manifest(
            artifact=step.artifact,
            step=step.verb,
            dataset_version=provenance.address.dataset_version,
            fingerprint=provenance.address.fingerprint,
            reads=provenance.reads,
            inputs=provenance.inputs,
            data=data,
            files=files,
            metrics={**result.metrics, **resource_usage(seconds)},
            checks=decide(step.checks, result.metrics, result.verdicts),
            toolchain=toolchain(),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    artifact = writer.publish(make_manifest, result.placed)
    manifest = artifact.manifest
    log.info("finished %s: %d files, %d bytes", artifact.location, len(manifest.files), manifest.total_bytes)


def toolchain() -> dict[str, str]:
    """Versions of installed packages that can change results, read without importing them."""
    versions = {"python": platform.python_version()}
    for name in TOOLCHAIN:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def parse(step: Step, words: Sequence[str]) -> argparse.Namespace:
    """The flags of a step, the same for every step; exits with a usage message if they are wrong."""
    parser = argparse.ArgumentParser(
        prog=f"python -m neuron_ops.steps.{step.verb}",
        description=f"Makes {step.artifact} and publishes it in the store.",
    )
    add_places(parser)
    parser.add_argument("--dataset-version", required=step.partitioned, help="the dataset version, such as demo-v1")
    return parser.parse_args(words)


def add_places(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is made and where everything is."""
    parser.add_argument("--recipe", required=True, help="name of a shipped recipe, or a .yaml or .json file")
    parser.add_argument("--store", required=True, help="folder or s3://bucket/prefix that holds the artifacts")
    parser.add_argument("--raw", help="folder or s3://bucket/prefix of the raw datasets (default: STORE/raw)")


def open_lineage(arguments: argparse.Namespace) -> Lineage:
    """The lineage that the flags describe."""
    store = ArtifactStore(arguments.store)
    raw = RawDatasets(arguments.raw or f"{store.url}/raw")
    return Lineage(load_recipe(arguments.recipe), store, raw, getattr(arguments, "dataset_version", None))


def _launched_by_dagster() -> bool:
    return DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _configure_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S"))
    # Under Dagster, progress goes to its event log; a second copy of each line would only hide warnings.
    handler.setLevel(logging.WARNING if _launched_by_dagster() else logging.INFO)
    logging.getLogger().addHandler(handler)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if _rank() == 0 else logging.WARNING)


def _end_on_signals() -> None:
    """SIGTERM and Ctrl-C unwind the program, which removes half-written files; so does the end of the launcher."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore Ctrl-C
        signal.signal(signal.SIGINT, unwind)
    launcher = os.environ.get(LAUNCHER_PID)
    if launcher is not None:
        threading.Thread(target=_follow, args=(int(launcher),), daemon=True).start()


def _follow(launcher: int) -> None:
    end_without_launcher(launcher)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os._exit(143)  # a rank inside a collective never returns to Python, so the handler above never runs


@contextlib.contextmanager
def _dagster() -> Iterator[None]:
    """Send the log to Dagster while the step runs, if Dagster launched it; only from the first rank."""
    if not _launched_by_dagster() or _rank() != 0:
        yield
        return
    with open_dagster_pipes() as pipes:
        handler = _PipesHandler(pipes)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(handler)
        try:
            yield
        finally:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(handler)


class _PipesHandler(logging.Handler):
    """Each record becomes a line of Dagster's event log, live."""

    def __init__(self, pipes: PipesContext) -> None:
        super().__init__(logging.INFO)
        self._pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        self._pipes.log.log(record.levelno, record.getMessage())


def _report_error(error: OpsError) -> None:
    """Write the error to the launcher's file if there is one, otherwise to stderr."""
    file = os.environ.get(ERROR_FILE)
    if file is not None:
        leave_error(Path(file), error)
    else:
        sys.stderr.write(f"error: {error}\n")
