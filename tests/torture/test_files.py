"""Files with changed bytes; each detector sees a careless reader."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest

from benchmarks.torture import bounded, files
from common import checkpoints

Question = dict[str, str]


def test_no_changed_file_is_another(tmp_path: Path) -> None:
    told: list[int] = []
    tried = files.rounds(300, seed=0, folder=tmp_path, tell=told.append)
    assert tried.faults == []
    assert tried.rounds == sum(told) == sum(tried.outcomes.values()) == 300
    assert tried.outcomes["refused with a sentence"] > 150


def test_a_round_can_be_run_again(tmp_path: Path) -> None:
    def tried(name: str) -> object:
        (tmp_path / name).mkdir()
        return files.rounds(20, seed=3, folder=tmp_path / name, tell=lambda n: None)

    assert tried("one") == tried("other")


def unsealed(question: Question) -> files.Content:
    """Reads a checkpoint without its seal, as earlier versions did."""
    with mock.patch.object(checkpoints, "read_sealed", lambda path: path.read_bytes()):
        return files.load(question)


def raising(question: Question) -> files.Content:
    raise KeyError("a key")


def dying(question: Question) -> files.Content:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def hanging(question: Question) -> files.Content:
    time.sleep(60)
    raise AssertionError


def greedy(question: Question) -> files.Content:
    np.ones(10**8).sum()
    return files.load(question)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (raising, "KeyError: 'a key'"),
        (dying, "the process crashed with code -11"),
        (hanging, "no answer within 1 s"),
        (greedy, "memory grew by 8"),
    ],
)
def test_a_careless_reader_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Any], Any], said: str
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 1.0 if work is hanging else 20.0)
    tried = files.rounds(2, seed=0, folder=tmp_path, tell=lambda n: None, work=work)
    assert len(tried.faults) == 2
    assert all(said in fault for fault in tried.faults)
    assert tried.faults[1].startswith("round 1: ")


def test_another_checkpoint_that_is_loaded_is_seen(tmp_path: Path) -> None:
    """A flipped bit of a weight."""
    found = files.made(tmp_path)["checkpoint"]
    content = found.read_bytes()
    with h5py.File(found) as file:
        place = file["state/parameters/decoder.out.bias"].id.get_offset()
    question = {"kind": "checkpoint", "path": str(found)}
    whole = files.load(question)
    found.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with bounded.asked(unsealed, patience=20, folder=tmp_path) as process:
        assert files.judged(process.ask(question), whole)[1] == (
            "other content was loaded and nothing tells it from the original"
        )
    with bounded.asked(files.load, patience=20, folder=tmp_path) as process:
        assert files.judged(process.ask(question), whole) == ("refused with a sentence", None)
