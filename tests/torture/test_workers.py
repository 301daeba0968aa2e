"""A faulty process of a run is one failed row; a sweep that loses the row, and a record without its tail, are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture import workers
from tests.torture.conftest import nothing

# A sweep that takes a process's end without an answer for an answer.
TRUSTING = """
from benchmarks.harness import processes
ask = processes.ask
def asked(*arguments, **named):
    try:
        return ask(*arguments, **named)
    except processes.ProcessError:
        return 1000
processes.ask = asked
"""


def rounds(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str) -> list[str]:
    monkeypatch.setattr(workers, "FAULTS", {fault: workers.FAULTS[fault]})
    folder.mkdir()
    return workers.rounds(1, seed=0, folder=folder, tell=nothing).faults


def test_a_process_that_ends_without_a_word_is_a_failed_row_and_a_lost_row_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[str], None]
) -> None:
    with monkeypatch.context() as patch:
        assert rounds(patch, tmp_path / "well", "exit 0") == []
    broken(TRUSTING)
    with monkeypatch.context() as patch:
        assert any("ended with code 2" in fault for fault in rounds(patch, tmp_path / "broken", "exit 0"))
