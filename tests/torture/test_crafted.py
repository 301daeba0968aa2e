"""Bad files made by hand; each detector sees a careless command."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.torture import crafted
from common import checkpoints, data


def test_the_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    assert len(crafted.cases()) >= crafted.AT_LEAST
    count = 60  # of all, which take half a minute
    tried = crafted.rounds(count, seed=0, folder=tmp_path, tell=lambda n: None)
    assert tried.faults == []
    assert tried.rounds == count


def test_each_file_is_bad_by_its_one_change(tmp_path: Path) -> None:
    """Without the change, all are read: no case is refused for another reason."""
    crafted._checkpoint(lambda file: None)(tmp_path / "run.h5")
    checkpoint = checkpoints.load(tmp_path / "run.h5")
    images = data.load(str(tmp_path / "images.h5"), data_dir=None, binarize=None)
    assert images.sha256 == checkpoint.sha256
    for name, make in {
        "data.npz": crafted._npz(),
        "data.npy": crafted._npy(crafted.HEADER),
        "record.json": crafted._record(lambda record: None),
        "settings.toml": crafted._written("steps = 5\n"),
    }.items():
        make(tmp_path / name)
        assert crafted.command(crafted.arguments(tmp_path / name))[0] == 0, name
    (tmp_path / "data.npz").rename(tmp_path / "data.npy")
    assert crafted.command(crafted.arguments(tmp_path / "data.npy"))[0] == 0, "the content says the kind, not the name"
    crafted._pair(crafted._arrays())(tmp_path / "pair.json")
    code, _, shown = crafted.command(crafted.arguments(tmp_path / "pair.json"))
    assert (code, "per-image results" in shown) == (0, False)


def accepting(question: list[str]) -> list[Any]:
    return [0, "", ""]


def raising(question: list[str]) -> list[Any]:
    raise RecursionError("too deep")


def wordy(question: list[str]) -> list[Any]:
    return [2, "one line\nanother\n", ""]


def coloured(question: list[str]) -> list[Any]:
    return [2, "a \x1b[31mred word.\n", ""]


def greedy(question: list[str]) -> list[Any]:
    np.ones(10**8).sum()
    return [2, "A sentence.\n", ""]


def slow(question: list[str]) -> list[Any]:
    for i in range(10**8):
        i * i
    return [2, "A sentence.\n", ""]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (accepting, "exit code 0"),
        (raising, "RecursionError: too deep"),
        (wordy, "2 lines"),
        (coloured, "1 lines"),
        (greedy, r"8\d\d MB: A sentence"),
        (slow, r"\d\.\d s, .*A sentence"),
    ],
)
def test_a_careless_command_is_seen(tmp_path: Path, work: Callable[[list[str]], list[Any]], said: str) -> None:
    tried = crafted.rounds(1, seed=0, folder=tmp_path, tell=lambda n: None, work=work)
    (fault,) = tried.faults
    assert re.search(said, fault), fault
