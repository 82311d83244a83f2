"""Which parts of a new S3 object the server copies from the base, and which have to be sent.

S3 puts an object together from parts; all but the last have at least 5 MiB. So a small changed tensor travels with
some of its neighbours, and a short untouched range between two changed tensors travels with both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neuron_ops.weights.merge_plan import PlannedFile

MIN_PART = 5 << 20
# What is sent is held in memory until its part is full.
MAX_SENT_PART = 16 << 20
# S3 copies up to 5 GiB in one request, but answers only when it is done.
MAX_COPIED_PART = 512 << 20
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `start` to `end` of the new object: the base's from `copy_from` on, or sent (None)."""

    start: int
    end: int
    copy_from: int | None


def plan_parts(file: PlannedFile) -> list[Part]:
    """The parts of one weight file, in order, with as few bytes sent as S3 allows."""
    longest = max(MAX_SENT_PART, file.size * 2 // MAX_PARTS)
    return [
        piece
        for part in choose_parts(list(_runs(file)), MIN_PART)
        for piece in _split(part, longest if part.copy_from is None else max(longest, MAX_COPIED_PART))
    ]


def _runs(file: PlannedFile) -> Iterator[Part]:
    """The file as bytes that can be copied and bytes that cannot, neighbours of the second kind joined."""
    sent = 0 if file.header is not None else None
    for step in file.steps:
        if step.change is not None:
            sent = step.start if sent is None else sent
            continue
        if sent is not None:
            yield Part(sent, step.start, None)
            sent = None
        yield Part(step.start, step.start + step.length, step.base_start)
    if sent is not None:
        yield Part(sent, file.size, None)


def choose_parts(runs: Sequence[Part], minimum: int) -> list[Part]:
    """The cheapest way from the first byte to the last over parts that S3 takes: a shortest path.

    It pays to cut where a run begins or ends, or as far from there as the smallest part is long.
    """
    size = runs[-1].end
    edges = {edge + shift for run in runs for edge in (run.start, run.end) for shift in (-minimum, 0, minimum)}
    cuts = sorted({0, size} | {edge for edge in edges if 0 < edge < size})
    best: dict[int, tuple[int, int, Part | None]] = {0: (0, 0, None)}  # bytes sent, parts, last part
    runs_left = list(reversed(runs))
    for at, start in enumerate(cuts):
        while runs_left and runs_left[-1].end <= start:
            runs_left.pop()
        if start not in best:
            continue
        sent, parts, _ = best[start]
        for end in cuts[at + 1 :]:
            if end - start < minimum and end != size:
                continue
            run = runs_left[-1]
            copied = run.copy_from is not None and end <= run.end
            cost = (sent if copied else sent + end - start, parts + 1)
            if end not in best or cost < best[end][:2]:
                copy_from = run.copy_from + start - run.start if copied and run.copy_from is not None else None
                best[end] = (*cost, Part(start, end, copy_from))
    return _path(best, size)


def _path(best: dict[int, tuple[int, int, Part | None]], size: int) -> list[Part]:
    parts: list[Part] = []
    while (part := best[parts[-1].start if parts else size][2]) is not None:
        parts.append(part)
    return parts[::-1]


def _split(part: Part, longest: int) -> Iterator[Part]:
    """Pieces of equal length, at least half of `longest` each."""
    length = part.end - part.start
    number = -(-length // longest)
    for at in range(number):
        start, end = length * at // number, length * (at + 1) // number
        copy_from = None if part.copy_from is None else part.copy_from + start
        yield Part(part.start + start, part.start + end, copy_from)
