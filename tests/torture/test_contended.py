"""Two same runs at once are run once; without the lock that is found, and so is a cache with a leftover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture import contended
from tests.torture.conftest import nothing

# Processes that start together begin at the same moment, each without a look at the other.
UNLOCKED = """
import contextlib, time
from benchmarks.harness import locks

def held(path):
    time.sleep(20 - time.time() % 20)
    return contextlib.nullcontext(False)

locks.held = held
"""
LITTERING = """
from common import files
files.os.replace = lambda a, b: (b.write_bytes(a.read_bytes()), b.with_name("litter").touch())
"""


def test_two_same_runs_at_once_are_run_once_and_two_runs_are_found(tmp_path: Path, broken: Callable[[str], None]) -> None:
    (tmp_path / "well").mkdir()
    tried = contended.rounds(1, seed=1, folder=tmp_path / "well", tell=nothing)
    assert tried.faults == []
    broken(UNLOCKED)
    for seed in range(1, 4):  # a moment may lie between the starts of two
        (folder := tmp_path / f"broken-{seed}").mkdir()
        if contended.rounds(1, seed=seed, folder=folder, tell=nothing).faults:
            return
    pytest.fail("two runs at once weren't found")


def test_a_cache_that_several_fill_has_one_file_and_another_is_found(tmp_path: Path, broken: Callable[[str], None]) -> None:
    assert contended.of_data(tmp_path / "well", seed=0, number=2) == []
    broken(LITTERING)
    assert contended.of_data(tmp_path / "broken", seed=0, number=2)
