"""The command line, without the runs that it would start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import runs
from benchmarks.harness.jobs import Job


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that `run` would start, in place of starting them; each ends as if the user had been wrong."""
    started: list[Job] = []

    def refuse(job: Job, **_: Any) -> int:
        started.append(job)
        return runs.REFUSED

    monkeypatch.setattr(runs, "in_process", refuse)
    return started


@pytest.fixture
def refused(jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls the command line, expects that it starts nothing and writes nothing, and returns its words."""

    def call(*arguments: str) -> str:
        try:
            code: object = main(list(arguments))
        except SystemExit as error:  # tyro's
            code = error.code
        printed = capsys.readouterr()
        assert code == 2
        assert jobs == []
        assert printed.out == ""
        assert "Traceback" not in printed.err
        results = tmp_path / "results"
        assert not results.exists() or list(results.iterdir()) == []
        return printed.err

    return call
