"""A report says where it was measured: what was so before measuring, and whether it was another thing afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import environment, reports
from benchmarks.harness.reports import REPORTS

COMMIT, LATER = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((COMMIT, False), (COMMIT, False), "a" * 12),
        ((COMMIT, True), (COMMIT, True), f"{'a' * 12} with uncommitted changes"),
        (
            (COMMIT, False),
            (COMMIT, True),
            f"{'a' * 12} at the start of measuring, {'a' * 12} with uncommitted changes at its end",
        ),
        ((COMMIT, False), (LATER, False), f"{'a' * 12} at the start of measuring, {'b' * 12} at its end"),
        ((None, None), (None, None), "unknown"),
    ],
)
def test_the_commit_and_the_load_are_those_of_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Any, after: Any, said: str
) -> None:
    monkeypatch.setattr(environment, "head", lambda: before)
    monkeypatch.setattr(environment, "load", lambda: 0.1)
    here = environment.describe()
    monkeypatch.setattr(environment, "head", lambda: after)
    monkeypatch.setattr(environment, "load", lambda: 1.9)
    reports.write("name", {}, tmp_path, environment=here)
    report = reports.read("name", tmp_path)
    assert report is not None
    found = report["environment"]
    assert (found["commit"], found["dirty"], found["load"], found["load_after"]) == (*before, 0.1, 1.9)
    assert reports.where(found, setting="cpu").endswith(f"; commit {said}")


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("backends/x.py", True),
        ("docs/examples/bare_loop.py", True),
        ("docs/timing.md", False),
        ("benchmarks/records/x.json", False),
    ],
)
def test_a_source_that_is_run_or_timed_counts_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, dirty: bool
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.describe()["dirty"] is False
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text("changed")
    assert environment.describe()["dirty"] is dirty


def test_every_committed_report_says_where_it_was_measured() -> None:
    for path in REPORTS.glob("*.json"):
        report = reports.read(path.stem, REPORTS)
        assert report is not None
        assert "commit" in reports.where(report["environment"], setting="cpu")
