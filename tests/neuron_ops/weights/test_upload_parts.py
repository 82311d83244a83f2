"""The parts of a multipart upload: S3's limits, every byte once, and never a byte sent that could be copied."""

import random
from itertools import pairwise
from pathlib import Path

from neuron_ops.weights.lora_targets import Change
from neuron_ops.weights.merge_plan import PlannedFile, Step
from neuron_ops.weights.safetensors_io import SafetensorsFile
from neuron_ops.weights.upload_parts import MAX_COPIED_PART, MIN_PART, Part, choose_parts, plan_parts

MINIMUM = 5


def runs_of(lengths: list[int], first_is_sent: bool) -> list[Part]:
    """Runs that are sent and copied in turn; what is copied lies 1000 bytes later in the base."""
    runs, at = [], 0
    for index, length in enumerate(lengths):
        sent = (index % 2 == 0) == first_is_sent
        runs.append(Part(at, at + length, None if sent else at + 1000))
        at += length
    return runs


def fewest_sent(runs: list[Part]) -> int:
    """By trying every byte as a cut."""
    size = runs[-1].end
    kind = [run.copy_from is not None for run in runs for _ in range(run.end - run.start)]
    number = [index for index, run in enumerate(runs) for _ in range(run.end - run.start)]
    best = [0] + [10**9] * size
    for end in range(1, size + 1):
        for start in range(end):
            if end - start < MINIMUM and end != size:
                continue
            copied = kind[start] and number[start] == number[end - 1]
            best[end] = min(best[end], best[start] + (0 if copied else end - start))
    return best[size]


def test_no_plan_sends_fewer_bytes() -> None:
    for seed in range(150):
        assert_no_plan_sends_fewer_bytes(random.Random(seed))


def assert_no_plan_sends_fewer_bytes(chance: random.Random) -> None:
    lengths = [chance.choice([1, 2, 3, 4, 5, 6, 9, 14, 23]) for _ in range(chance.randint(1, 7))]
    runs = runs_of(lengths, chance.random() < 0.5)

    parts = choose_parts(runs, MINIMUM)

    assert (parts[0].start, parts[-1].end) == (0, sum(lengths))
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert all(part.end - part.start >= MINIMUM for part in parts[:-1])
    for part in parts:
        if part.copy_from is not None:
            run = next(run for run in runs if run.start <= part.start and part.end <= run.end)
            assert run.copy_from is not None
            assert part.copy_from == part.start + 1000
    assert sum(part.end - part.start for part in parts if part.copy_from is None) == fewest_sent(runs)


def planned(steps: list[tuple[int, bool]], header: bytes | None = None) -> PlannedFile:
    made, at, base = [], len(header or b""), 0
    for length, changes in steps:
        made.append(Step(at, length, base, Change("tensor") if changes else None))
        at, base = at + length, base + length
    return PlannedFile(SafetensorsFile(Path("model.safetensors"), b"", {}, {}, base), header, tuple(made), at)


def test_a_small_change_in_a_large_file_sends_one_smallest_part() -> None:
    parts = plan_parts(planned([(10**9, False), (10**6, True), (10**9, False)]))

    assert [part.end - part.start for part in parts if part.copy_from is None] == [MIN_PART]


def test_large_parts_are_split_so_that_memory_and_requests_stay_bounded() -> None:
    parts = plan_parts(planned([(5 * 10**9, False), (10**8, True)], header=b"12345678"))

    sent = [part.end - part.start for part in parts if part.copy_from is None]
    copied = [part.end - part.start for part in parts if part.copy_from is not None]
    assert max(sent) <= 16 << 20
    assert MIN_PART <= min(copied) <= max(copied) <= MAX_COPIED_PART
    assert sum(sent) + sum(copied) == 5 * 10**9 + 10**8 + 8
    assert sum(sent) == MIN_PART + 10**8, "a new header travels with the bytes behind it"


def test_a_file_that_stays_whole_is_copied_whole() -> None:
    assert plan_parts(planned([(1000, False)])) == [Part(0, 1000, 0)]


def test_a_terabyte_has_no_more_parts_than_s3_takes() -> None:
    assert len(plan_parts(planned([(10**12, True)]))) <= 10_000
