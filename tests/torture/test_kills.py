"""A killed run goes on to the same bits; a resumption that is off by a little, and a process that is left over, are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.torture import kills
from benchmarks.torture.running import Started, run
from common.config import FAMILIES
from common.protocol import BACKENDS
from tests.torture.conftest import nothing

# A checkpoint that is read isn't quite the one that was written.
FORGETFUL = """
from common import checkpoints
load = checkpoints.load
def loaded(*arguments, **named):
    checkpoint = load(*arguments, **named)
    for array in checkpoint.best.values():
        array.flat[0] += 1e-3
    return checkpoint
checkpoints.load = loaded
"""
ORPHAN = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"


def test_a_killed_run_is_resumed_to_the_same_bits_and_a_resumption_that_isnt_is_found(
    tmp_path: Path, broken: Callable[[str], None]
) -> None:
    tried = kills.rounds(1, seed=3, folder=tmp_path, tell=nothing)
    assert tried.faults == []
    assert tried.rounds == 1
    whole, killed = sorted(tmp_path.iterdir())
    for path in (*killed.glob("*.json"), *killed.glob("*.npz")):
        path.unlink()
    broken(FORGETFUL)
    model = (BACKENDS[0], FAMILIES[0])
    assert "the resumed run differs: the record's test" in kills.finish(run(*model, killed), ours=killed, theirs=whole)


def test_a_run_that_ended_before_the_kill_is_compared_and_another_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Path] = []
    compared: list[Path] = []

    def kill(arguments: tuple[str, ...], *, folder: Path, number: int, **options: Any) -> tuple[str, list[str]]:
        killed.append(folder)
        return (kills.ENDED if number == 1 else "worker"), []

    def finish(arguments: tuple[str, ...], *, ours: Path, theirs: Path) -> list[str]:
        compared.append(ours)
        return ["it differs"]

    monkeypatch.setattr(kills, "kill", kill)
    monkeypatch.setattr(kills, "finish", finish)
    monkeypatch.setattr(kills, "Started", lambda *_: SimpleNamespace(end=lambda: SimpleNamespace(code=0)))
    count = 2 + kills.KILLS_A_RUN + 1
    tried = kills.rounds(count, seed=0, folder=tmp_path, tell=nothing)
    assert tried.rounds == count
    runs = list(dict.fromkeys(killed))
    assert [killed.count(folder) for folder in runs] == [2, kills.KILLS_A_RUN, 1]
    assert compared == runs, "each run once, after its last kill"
    assert tried.faults == [f"round {number}: it differs" for number in (1, 1 + kills.KILLS_A_RUN, count - 1)]


def test_a_process_that_is_left_over_is_found() -> None:
    started = Started(program=("-c", ORPHAN))
    assert started.end(seconds=5).hung, "it holds the pipes open"
    started = Started(program=("-c", ORPHAN.replace("'])", "'], stdout=-3, stderr=-3)")))
    assert started.end().faults() == []
    assert len(started.left_over(seconds=0.5)) == 1
    assert started.left_over(seconds=5) == []
