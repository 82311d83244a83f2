"""The cache folder of Trainium's compiler, read from outside: which graphs are complete, and why others are not.

    <compiler and its version>/MODULE_<hash of the graph>+<hash of the flags>/model.hlo_module.pb   extracted
                                                                             /compile_flags.json
                                                                             /model.neff            compiled
                                                                             /model.done            and whole
                                                                             /model.log             failed: why
                                                                             /*.lock                being compiled

Pure Python. The compiler's own reader is not public, so what it may mean is read the careful way: an entry counts as
complete only when everything says so. Not run on Trainium; the layout is that of its documentation and of published
caches. Starting the compiler belongs to backends/.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_ops.compilers.graph import Graph, State

PROGRAM, DONE, LOG, FLAGS = "model.neff", "model.done", "model.log", "compile_flags.json"
REASON_LENGTH = 300
_FAILURE = "Failed compilation"


def scan(cache: Path) -> list[Graph]:
    """Every entry, sorted by name."""
    return [_read(cache, cache / name) for name in names(cache)]


def names(cache: Path) -> list[str]:
    """`<compiler>/MODULE_…` of every entry: a listing of two folders, so cheap enough to repeat while training."""
    return sorted(entry.relative_to(cache).as_posix() for entry in cache.glob("*/MODULE_*") if entry.is_dir())


def files(cache: Path, graph: Graph) -> list[Path]:
    """The files of an entry, relative to the cache: without locks, which say something about processes."""
    found = sorted(file for file in (cache / graph.name).rglob("*") if file.is_file() and file.suffix != ".lock")
    return [file.relative_to(cache) for file in found]


def reset(cache: Path, graph: Graph) -> None:
    """Make an entry that is not complete look merely extracted, or the compiler would skip it or wait for it."""
    for file in (cache / graph.name).iterdir():
        if file.name in (PROGRAM, DONE, LOG) or file.suffix == ".lock":
            file.unlink()


def _read(cache: Path, entry: Path) -> Graph:
    state, reason = _state(entry, locked=any(entry.glob("*.lock")))
    return Graph(
        name=entry.relative_to(cache).as_posix(),
        state=state,
        bytes=(entry / PROGRAM).stat().st_size if state == "complete" else 0,
        reason=reason,
    )


def _state(entry: Path, locked: bool) -> tuple[State, str]:
    program, log = entry / PROGRAM, entry / LOG
    compiled = program.is_file() and program.stat().st_size > 0
    done = (entry / DONE).is_file()
    text = log.read_text(errors="replace").strip() if log.is_file() else ""
    if text.startswith(_FAILURE) or (log.is_file() and not (compiled and done)):
        return "failed", _shorten(text) or f"the compiler left an empty {LOG}"
    if done and not compiled:
        return "failed", f"{DONE} without a {PROGRAM} that holds anything"
    if compiled and done:
        return "complete", ""
    if locked:
        return "locked", "its compilation was killed and left its lock"
    return "extracted", f"{PROGRAM} was never finished"


def _shorten(text: str) -> str:
    """The end of what the compiler says, where the reason is; the beginning is its command line."""
    message = " ".join(text.rpartition("]: ")[2].split())
    return message if len(message) <= REASON_LENGTH else f"…{message[-REASON_LENGTH:]}"


@dataclass(frozen=True, slots=True)
class Compilation:
    """What the compiler reports of one graph."""

    seconds: float | None
    retries: int


_PREFIX = re.compile(r"^INFO: ?", re.MULTILINE)


def read_report(output: str) -> dict[str, Compilation]:
    """By name of the entry, from the reports (JSON among lines of log) in the compiler's output; later ones win."""
    found: dict[str, Compilation] = {}
    for report in _reports(_PREFIX.sub("", output)):
        for path, values in report.items():
            entry = Path(path).parent
            seconds = values.get("compile_time")
            found[f"{entry.parent.name}/{entry.name}"] = Compilation(
                seconds=float(seconds) if isinstance(seconds, int | float) else None,
                retries=int(values.get("retry", 0)),
            )
    return found


def _reports(output: str) -> Iterator[dict[str, Any]]:  # Any: JSON of another program
    decoder = json.JSONDecoder()
    for match in re.finditer(r'\{\s*"compilation_summary"', output):
        try:
            value, _ = decoder.raw_decode(output, match.start())
        except ValueError:  # cut short, or a log line in the middle of it
            continue
        report = value.get("compilation_report")
        if isinstance(report, dict):
            yield report


def explain_miss(cache: Path, missing: str, published: Iterable[str]) -> str:
    """Why an entry that training made was not among the published ones: compiler, flags or the graph itself."""
    compiler, _, key = missing.partition("/")
    graph, _, flags = key.partition("+")
    known = [(name.partition("/")[0], *name.partition("/")[2].split("+", 1)) for name in published]
    compilers = sorted({item[0] for item in known})
    if compiler not in compilers:
        return f"the compiler here is {compiler}, the cache was made by {', '.join(compilers) or 'none'}"
    same_flags = [item for item in known if item[0] == compiler and item[2:] == (flags,)]
    if not same_flags:
        return f"the compiler's flags differ{_flags_difference(cache, missing, known)}"
    return f"its graph ({graph}) is not one that the warm-up made, with the same compiler and flags"


def _flags_difference(cache: Path, missing: str, known: list[tuple[str, ...]]) -> str:
    here = _flags(cache / missing)
    there = next((_flags(cache / item[0] / "+".join(item[1:])) for item in known), None)
    if here is None or there is None:
        return ""
    more, less = [flag for flag in here if flag not in there], [flag for flag in there if flag not in here]
    return f": only now {' '.join(more) or 'nothing'}; only in the cache {' '.join(less) or 'nothing'}"


def _flags(entry: Path) -> list[str] | None:
    try:
        value = json.loads((entry / FLAGS).read_text())
    except (OSError, ValueError):
        return None
    return [str(flag) for flag in value] if isinstance(value, list) else None
