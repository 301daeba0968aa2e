"""The latency between two cores is measured, waited for, and reported beside each measurement."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import cores, environment
from benchmarks.studies import throughput
from common.errors import UserError

TWO_CORES = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not TWO_CORES, reason="it needs two cores, and a system that ties a process to one")
def test_the_way_there_and_back_takes_longer_than_none() -> None:
    """The partner answers from another core: with both on one, each exchange would wait for the system to switch."""
    before = os.sched_getaffinity(0)
    found = [cores.round_trip() for _ in range(5)]
    assert all(trip is not None for trip in found)
    assert 20 < statistics.median(trip for trip in found if trip is not None) < 20_000  # ns
    assert os.sched_getaffinity(0) == before, "this process stays where it was"


def test_with_one_core_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "ALLOWED", [3])
    assert cores.round_trip() is None
    assert cores.together(lambda: 7) == (7, [None, None])
    assert "isn't known" in cores.said([None, None])


@pytest.mark.skipif(not TWO_CORES, reason="it needs two cores, and a system that ties a process to one")
def test_a_main_thread_that_a_framework_ties_to_a_core_leaves_the_number_of_cores() -> None:
    """As OpenMP does on import where OMP_PROC_BIND is set."""
    code = "import os; from benchmarks.harness import cores; os.sched_setaffinity(0, {cores.ALLOWED[0]}); "
    code += "print(cores.count(), cores.round_trip() is not None)"
    found = subprocess.run([sys.executable, "-c", code], cwd=environment.ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.split() == [str(len(os.sched_getaffinity(0))), "True"]


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000", "cpu.stat": ""}, 1.5),
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        (
            "5:cpu,cpuacct:/a\n0::/",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/a\n0::/", {"memory/a/cpu.max": "1 100000"}, None),
    ],
)
def test_the_quota_is_the_least_of_the_groups(
    group: str, files: dict[str, str], expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    read = Path.read_text
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(
        Path, "read_text", lambda path, **how: group if path == Path("/proc/self/cgroup") else read(path, **how)
    )
    assert cores.quota() == expected


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """What each look finds, in order; a pause is none."""
    left: list[float] = []
    monkeypatch.setattr(cores, "round_trip", lambda: left.pop(0))
    monkeypatch.setattr(cores, "PAUSE_S", 0)

    def these(*found: float) -> list[float]:
        left[:] = found
        return left

    return these


def test_without_a_bound_nothing_is_waited_for_or_repeated(
    trips: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cores.WITHIN, raising=False)
    left = trips(900, 800)
    assert cores.together(lambda: 7) == (7, [900, 800])
    assert left == []


def test_within_a_bound_it_waits_and_repeats_what_ended_apart(
    trips: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cores.WITHIN, "400")
    results = iter("ab")
    #        waits ------  a   b starts, ends
    left = trips(500, 500, 300, 500, 310, 400)
    assert cores.together(lambda: next(results)) == ("b", [310, 400])
    assert left == []


def test_what_never_ends_together_is_kept_with_what_was_found(
    trips: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cores.WITHIN, "400")
    done: list[int] = []
    trips(*(300, 500) * cores.TRIES)
    assert cores.together(lambda: done.append(1)) == (None, [300, 500])
    assert len(done) == cores.TRIES


def test_patience_ends(
    trips: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now: Iterator[int] = iter(range(0, 10_000, 100))
    monkeypatch.setattr(cores.time, "monotonic", lambda: next(now))
    monkeypatch.setenv(cores.WITHIN, "400")
    left = trips(500, 501, 502, 503, 504)
    assert cores.gathered() == 502
    assert left == [503, 504]
    assert capsys.readouterr().err == "Two cores are 500 ns apart: waiting for 400, 300 s at most.\n", "said once"


@pytest.mark.parametrize("text", ["near", "0", "-5", "nan"])
def test_a_bound_that_is_none_is_the_users_mistake(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cores.WITHIN, text)
    with pytest.raises(UserError, match=f"'{text}'"):
        cores.within()
    monkeypatch.setattr(throughput, "plan", lambda *_: pytest.fail("it's refused before anything is timed"))
    assert main(["study", "throughput"]) == 2


def test_the_bound_is_on_the_record_and_the_range_under_the_table() -> None:
    assert environment.deciding({cores.WITHIN: "400"}) == {cores.WITHIN: "400"}
    assert cores.said([290.0, None, 512.4]) == "a byte's round trip between two cores 290 to 512 ns"
