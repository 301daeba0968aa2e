"""Ctrl-C, SIGTERM and SIGHUP: what a stopped run has saved, and how processes end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.harness import cores, jobs, processes, records, runs, scoring, stopping
from benchmarks.harness.events import Event
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from common import checkpoints
from tests.harness.identical import assert_same_run

# Chunks end at 10, 20, 25, 30, 40, 50 and 60; points of the curve are at 25 and 50, validations at 40 and 60.
TINY = preset("quick").replace(
    image_shape=(8, 8),
    latent_size=2,
    hidden_size=8,
    steps=60,
    chunk=10,
    log_interval=25,
    validation_interval=40,
    warm_up=10,
    samples=30,
    images=50,
    selection="best-validation",
    ema_decay=0.9,
)


def job_in(folder: Path, backend: str, **changes: Any) -> Job:
    config = TINY.replace(**changes)
    return Job(backend, "quick", "binarized-digits", None, config, str(folder), resume=False)


def resumed(job: Job) -> Job:
    return dataclasses.replace(job, resume=True)


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Signals as in a terminal: a shell's background jobs ignore SIGINT, and so do the processes that they start."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping._came.clear()


@pytest.fixture
def no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gathered", "round_trip"):
        monkeypatch.setattr(cores, name, lambda: None)


def stopped_after(chunks: int) -> Callable[[], Any]:
    """In place of `stopping.deferred`: a signal comes while this chunk is under way."""
    asked = iter(range(chunks))

    @contextlib.contextmanager
    def deferred() -> Iterator[Callable[[], bool]]:
        yield lambda: next(asked, None) is None

    return deferred


@pytest.mark.usefixtures("no_latency")
@pytest.mark.parametrize("backend", ["pytorch", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_save_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    whole, asked = job_in(tmp_path / "whole", backend), job_in(tmp_path / "asked", backend)
    assert runs.worker(whole.as_json()) == 0
    saved, save = [], checkpoints.save

    def remember(checkpoint: checkpoints.Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        saved.append(int(checkpoints.load(path).state["step"]))

    answers = iter([False, False, True])  # the third chunk ends at step 25
    monkeypatch.setattr(checkpoints, "save", remember)
    monkeypatch.setattr(stopping, "save_asked", lambda: next(answers, False))
    assert runs.worker(asked.as_json()) == 0
    assert saved == [25, 40, 60]
    assert f"saved step 25 in {asked.checkpoint}, and goes on." in capsys.readouterr().err
    assert_same_run(tmp_path / "asked", tmp_path / "whole")


def test_the_signal_to_save_reaches_the_process_of_a_run(tmp_path: Path) -> None:
    """However early it comes: neither the command nor its process ends by it."""
    command = [sys.executable, "-m", "benchmarks", "run", "--backend", "pytorch", "--variational", "mean-field", "--quiet"]
    shape = ["--steps", "2000000", "--latent-size", "2", "--hidden-size", "8", "--results", str(tmp_path)]
    with subprocess.Popen([*command, *shape], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not psutil.Process(process.pid).children():
            time.sleep(0.01)
        for _ in range(4000):  # the process starts, imports and trains meanwhile
            process.send_signal(signal.SIGUSR1)
            if list(tmp_path.glob("*.h5")):
                break
            time.sleep(0.01)
        assert process.poll() is None
        process.terminate()
        said = process.stderr.read()
    assert process.returncode == 143
    assert "and goes on." in said
    assert "stopped at step" in said


@pytest.mark.usefixtures("no_latency")
@pytest.mark.parametrize(
    ("backend", "chunks", "step"),
    [
        ("pytorch", 1, 10),
        ("pytorch", 4, 30),
        ("pytorch", 5, 40),
        ("pytorch", 7, 60),
        ("jax", 6, 50),
        pytest.param("tensorflow", 4, 30, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    chunks: int,
    step: int,
) -> None:
    whole, halves = job_in(tmp_path / "whole", backend), job_in(tmp_path / "halves", backend)
    assert runs.worker(whole.as_json()) == 0
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "deferred", stopped_after(chunks))
        with pytest.raises(KeyboardInterrupt):
            runs.worker(halves.as_json())
    assert int(checkpoints.load(halves.checkpoint).state["step"]) == step
    assert not halves.record.exists()
    assert f"stopped at step {step} of 60, saved in {halves.checkpoint}." in capsys.readouterr().err
    assert runs.worker(resumed(halves).as_json()) == 0
    assert_same_run(tmp_path / "halves", tmp_path / "whole")
    steps = [checkpoints.load(job.checkpoint).history["chunk_steps"] for job in (whole, halves)]
    assert steps[0] == steps[1]


@pytest.mark.usefixtures("no_latency")
def test_a_run_stopped_in_its_test_says_where_its_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scores(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    job = job_in(tmp_path, "pytorch")
    monkeypatch.setattr(scoring, "scores", scores)
    with pytest.raises(KeyboardInterrupt):
        runs.worker(job.as_json())
    assert f"stopped at step 60 of 60, saved in {job.checkpoint}." in capsys.readouterr().err
    assert int(checkpoints.load(job.checkpoint).state["step"]) == 60


@pytest.mark.usefixtures("no_latency")
def test_a_run_stopped_before_its_first_chunk_saves_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stopping, "deferred", stopped_after(0))
    with pytest.raises(KeyboardInterrupt):
        runs.worker(job_in(tmp_path, "pytorch").as_json())
    assert list(tmp_path.iterdir()) == []
    assert "stopped" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "backend", ["pytorch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jax", "tensorflow"))]
)
def test_a_run_in_its_own_process_that_gets_a_signal_goes_on(tmp_path: Path, backend: str) -> None:
    long = {"steps": 2000, "chunk": 100, "log_interval": 300, "validation_interval": 1000}
    whole, halves = job_in(tmp_path / "whole", backend, **long), job_in(tmp_path / "halves", backend, **long)
    assert runs.worker(whole.as_json()) == 0

    sent: list[Event] = []

    def interrupt(event: Event) -> None:
        if event["kind"] == "progress" and event["done"] and not sent:
            sent.append(event)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        runs.in_process(halves, heard=interrupt)
    assert 0 < int(checkpoints.load(halves.checkpoint).state["step"]) < 2000
    assert runs.worker(resumed(halves).as_json()) == 0
    assert_same_run(tmp_path / "halves", tmp_path / "whole")


def stubborn(children: int) -> None:
    """A process that ignores SIGTERM, as its children do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(children):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("started", file=sys.stderr, flush=True)
    time.sleep(60)


IN_A_NOTEBOOK = f"""
from benchmarks.harness import processes
processes.ask("{__name__}:stubborn", 0, title="stubborn")
"""
AS_A_COMMAND = f"""
from benchmarks.harness import processes, stopping
stopping.watch(again=True)
processes.ask("{__name__}:stubborn", 1, title="stubborn")
"""


@pytest.mark.parametrize(
    ("code", "first"),
    [(IN_A_NOTEBOOK, signal.SIGINT), *((AS_A_COMMAND, number) for number in stopping.SIGNALS)],
    ids=["notebook", *(number.name for number in stopping.SIGNALS)],
)
def test_a_second_signal_ends_at_once(code: str, first: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "started\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == (1 if code == IN_A_NOTEBOOK else 2)
        process.send_signal(first)
        time.sleep(0.5)
        assert process.poll() is None, "it waits for what it has started"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) != 0
        assert psutil.wait_procs(started, timeout=10)[1] == []


WATCHED = """
import sys
from benchmarks.harness import stopping
stopping.watch(again=True, words="Stopped.\\n")
"""
# A module that drops the exception which ends its import, as extension modules do.
SLOW_MODULE = """
import time
try:
    print("importing", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(60)
"""
# A framework's thread for which Python would wait.
STUCK = """
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
try:
    print("working", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    stopping.leave(stopping.exit_code())
"""


@pytest.mark.parametrize("code", [f"{WATCHED}import slow_module", f"{WATCHED}{STUCK}"], ids=["import", "thread"])
@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_an_import_and_a_process_that_has_stopped_at_once(
    tmp_path: Path, code: str, number: signal.Signals
) -> None:
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}:{processes.ROOT}"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=variables, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() in ("importing\n", "working\n")
        process.send_signal(number)
        error = process.communicate(timeout=10)[1]
    assert process.returncode == 128 + number
    assert error == ("Stopped.\n" if "slow_module" in code else "")


def mask(_: None) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_terminals_ctrl_c_does_not_reach_a_process_directly() -> None:
    assert processes.ask(f"{__name__}:mask", None, title="mask")
    assert not mask(None)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.deferred() as come:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not come()
            os.kill(os.getpid(), signal.SIGTERM)
            assert come()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_latency")
def test_each_validations_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = dataclasses.replace(job_in(tmp_path, "pytorch", validation_interval=20), keep_checkpoints=True)
    assert jobs.kept(job.checkpoint) == []
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "deferred", stopped_after(4))  # at step 30
        with pytest.raises(KeyboardInterrupt):
            runs.worker(job.as_json())
    folder = job.checkpoint.with_suffix(".steps")
    assert jobs.kept(job.checkpoint) == [folder / "00000000.h5", folder / "00000020.h5"]
    assert runs.worker(dataclasses.replace(job, resume=True, keep_checkpoints=False).as_json()) == 0
    steps = [0, 20, 40, 60]
    assert [int(checkpoints.load(path).state["step"]) for path in jobs.kept(job.checkpoint)] == steps
    assert jobs.kept(job.checkpoint)[-1].read_bytes() == job.checkpoint.read_bytes()
    assert len(records.read_all(tmp_path)) == 1

    assert runs.worker(dataclasses.replace(job, keep_checkpoints=False).as_json()) == 0
    assert jobs.kept(job.checkpoint) == [], "a new run doesn't have the files of a former one"


def silent(seconds: float) -> str:
    print("about to wait", file=sys.stderr, flush=True)
    time.sleep(seconds)
    return "awake"


def test_a_process_that_tells_nothing_is_killed_and_one_that_tells_in_time_is_not() -> None:
    heard: list[Event] = []
    began = time.monotonic()
    with pytest.raises(processes.SilentError):
        processes.ask(f"{__name__}:silent", 60, title="silent", heard=heard.append, patience=5.0)
    assert time.monotonic() - began < 30
    assert heard[-1]["text"] == "about to wait"
    assert processes.ask(f"{__name__}:silent", 0.1, title="silent", heard=heard.append, patience=20.0) == "awake"


def test_a_process_that_ends_well_and_answers_nothing_has_failed() -> None:
    with pytest.raises(processes.ProcessError, match="ended with code 0"):
        processes.ask("os:_exit", 0, title="nothing")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_process_of_a_parent_that_died_saves_and_ends(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["--backend", "pytorch", "--variational", "mean-field", "--steps", "1000000", "--validation-interval", "900000"]
    command = [sys.executable, "-m", "benchmarks", "run", *arguments, "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8") as parent:
        assert parent.stderr is not None
        assert any("steps," in line for line in parent.stderr), "it trains"
        (worker,) = psutil.Process(parent.pid).children()
        parent.send_signal(number)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.wait(timeout=processes.GRACE + 15)
    (path,) = tmp_path.glob("*.h5")
    assert int(checkpoints.load(path).state["step"]) > 0
