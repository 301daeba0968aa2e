"""Commands of a product that is broken on purpose, so that a scenario has a fault to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness.environment import ROOT


@pytest.fixture
def broken(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Call it with code that each Python process which is started from now on runs first."""

    def breaks(code: str) -> None:
        folder: Path = tmp_path_factory.mktemp("broken")
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")

    return breaks


def nothing(_: int) -> None:
    """In place of a scenario's `tell`."""
