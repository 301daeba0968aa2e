"""A run's lock: held by one process, waited for by the others, and free when its owner has died."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from benchmarks.harness import locks, records, runs
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.harness.record_schema import Record

HOLD = "import sys, time; from pathlib import Path; from benchmarks.harness import locks\n"
HOLD += "with locks.held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))\n"


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_nobody_has_is_held_at_once_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".run.lock"
    for _ in range(2):
        with locks.held(path) as waited:
            assert not waited
            assert path.read_text().startswith("process ")
        assert not path.exists()


def test_another_process_is_waited_for_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".run.lock"
    with holder(path, 2.0) as process, locks.held(path) as waited:
        assert waited
        assert process.wait() == 0
    said = capsys.readouterr().err
    assert said.count(f"Waiting for process {process.pid} on ") == 1
    assert not path.exists()


def test_a_lock_survives_no_owner_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".run.lock"
    with holder(path, 60.0) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()
    began = time.monotonic()
    with locks.held(path) as waited:
        assert not waited
    assert time.monotonic() - began < 1


def test_a_file_that_its_owner_has_just_removed_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock = tmp_path / ".run.lock", locks.fcntl.flock
    calls: list[int] = []

    def late(file: IO[str], operation: int) -> None:
        """The first time, the owner removes its file, and another process makes a new one, between opening and locking."""
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()
            path.touch()
        flock(file, operation)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with locks.held(path):
        assert path.read_text().startswith("process ")
    assert len(calls) == 2


def test_two_never_hold_it_at_once(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with locks.held(tmp_path / ".run.lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_the_same_run_twice_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("jax", "quick", "binarized-digits", None, preset("quick"), str(tmp_path), resume=False)
    done: list[int] = []

    def run(job: Job, *, import_s: float) -> Record:
        done.append(1)
        time.sleep(1)
        record = job.blank(dataset=job.dataset()) | {"status": "ok", "reason": None}
        records.write(record, tmp_path)
        return record

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs.protocol, "load", lambda name: None)
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(runs.worker(job.as_json()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (codes, done) == ([0, 0, 0], [1])
