"""A process that the kernel kills for lack of memory is named so, with what its container used and may use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_ops.launch.oom import GROUPS, OWN, MemoryWatch, Usage, own_group, usage

GIB = 2**30
HUNGRY = "[bytearray(2**20) for _ in range(512)]"
LAUNCHER = f"""
import os, sys
from neuron_ops.launch import process
open(os.path.join(sys.argv[1], "cgroup.procs"), "w").write(str(os.getpid()))
ending = process.run([sys.executable, "-c", {HUNGRY!r}], {{}})
print(ending.status, ending.reason)
"""


def version_2(folder: Path, *, limit: str = "max", peak: int = 0, kills: int = 0) -> Path:
    """A control group as Linux shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.peak").write_text(f"{peak}\n")
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 12\noom 1\noom_kill {kills}\noom_group_kill 0\n")
    return folder


def version_1(folder: Path, *, limit: int, peak: int = 0, kills: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.max_usage_in_bytes").write_text(f"{peak}\n")
    (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    return folder


def test_a_kill_for_want_of_memory_is_told_with_peak_and_limit(tmp_path: Path) -> None:
    watch = MemoryWatch(version_2(tmp_path, limit=str(32 * GIB), kills=3))

    version_2(tmp_path, limit=str(32 * GIB), peak=32 * GIB - GIB // 4, kills=4)

    assert watch.verdict() == (
        "the kernel killed a process for lack of memory: its container's peak was 31.8 GiB of its limit of 32 GiB"
    )


def test_without_a_limit_only_the_peak_is_told(tmp_path: Path) -> None:
    watch = MemoryWatch(version_2(tmp_path))

    version_2(tmp_path, peak=3 * GIB, kills=1)

    assert watch.verdict().endswith("its container's peak was 3 GiB without a limit of its own")


def test_kills_from_before_are_not_told(tmp_path: Path) -> None:
    assert MemoryWatch(version_2(tmp_path, kills=3)).verdict() == ""


def test_without_control_groups_nothing_is_told(tmp_path: Path) -> None:
    assert MemoryWatch(tmp_path).verdict() == ""
    assert own_group(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize("limit", [8 * GIB, 9223372036854771712])
def test_version_1_of_control_groups_is_read_too(tmp_path: Path, limit: int) -> None:
    expected = limit if limit == 8 * GIB else None

    assert usage(version_1(tmp_path, limit=limit, peak=5, kills=2)) == Usage(expected, 5, 2)


@pytest.mark.parametrize("seen_as", ["kubepods/pod1/main", ""])
def test_the_own_group_is_found_under_the_machine_s_path_or_as_the_top(tmp_path: Path, seen_as: str) -> None:
    memberships = tmp_path / "cgroup"
    memberships.write_text("0::/kubepods/pod1/main\n")
    made = version_2(tmp_path / "root" / seen_as)

    assert own_group(memberships, tmp_path / "root") == made


def test_on_a_machine_with_both_versions_the_one_that_holds_memory_is_found(tmp_path: Path) -> None:
    memberships = tmp_path / "cgroup"
    memberships.write_text("9:name=systemd:/\n4:memory:/job\n0::/\n")
    made = version_1(tmp_path / "memory" / "job", limit=GIB)

    assert own_group(memberships, tmp_path) == made


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A real control group of 192 MiB below this process's own."""
    own = own_group(OWN, GROUPS)
    if own is None:
        pytest.skip("NO CONTROL GROUPS: a real kill for lack of memory was not tested.")
    folder = own / f"test-{os.getpid()}"
    limit = folder / ("memory.max" if (own / "memory.max").exists() else "memory.limit_in_bytes")
    try:
        folder.mkdir()
        limit.write_text(str(192 * 2**20))
    except OSError as error:
        pytest.skip(f"NO CONTROL GROUP OF ITS OWN: a real kill for lack of memory was not tested ({error}).")
    yield folder
    folder.rmdir()


def test_a_launcher_that_outlives_its_program_says_that_memory_ran_out(small_group: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LAUNCHER, str(small_group)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("-9 the kernel killed a process for lack of memory: its container's peak was 0.18")
    assert done.stdout.endswith(" of its limit of 0.188 GiB\n")
