"""A sweep on Ray: two nodes on this machine, one of which is lost; Ctrl-C; a Ray that isn't there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.engines import ray as engine
from benchmarks.harness import flags, runs
from benchmarks.harness.environment import ROOT
from benchmarks.harness.grid import grid_of
from benchmarks.harness.jobs import Job
from common import checkpoints
from tests.engines.sweeps import TINY, assert_same_sweeps

ray = pytest.importorskip("ray", reason="ray isn't installed: environments/ray.txt")
PATIENCE = 240.0  # seconds


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", "run", *TINY, *arguments]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, with signals as in a terminal; it is killed where the test fails."""
    words = ["env", "--default-signal=INT", *command(*arguments)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            for process in tree(started.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.25)


def tree(process: int) -> list[psutil.Process]:
    """The process and its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [*psutil.Process(process).children(recursive=True), psutil.Process(process)]
    return []


def jobs_of(processes: list[psutil.Process]) -> list[Job]:
    """The jobs that are under way in processes of `processes.ask` among these, by their stdin, which their forks share."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):  # it may have ended, or have no stdin yet
            if process.cmdline()[-1:] == ["benchmarks.harness.runs:worker"]:
                job = Job.from_json(json.loads(Path(f"/proc/{process.pid}/fd/0").read_text()))
                found[job.checkpoint] = job
    return list(found.values())


def half_way(processes: list[psutil.Process]) -> bool:
    """Whether one of these is a run in training that has saved a checkpoint."""
    return any(job.checkpoint.exists() and not job.record.exists() for job in jobs_of(processes))


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray of two nodes with a core each; the fixture's `raylets` are the nodes' processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        started.raylets = [started.head_node, started.add_node(num_cpus=1, include_dashboard=False)]
        started.raylets = [node.all_processes["raylet"][0].process.pid for node in started.raylets]
        yield started
        started.shutdown()


@pytest.mark.slow
def test_a_sweep_loses_a_node_and_no_run(tmp_path: Path, cluster: Any) -> None:
    sweep = ("--quiet", "--backend", "pytorch", "jax", "--seed", "0", "1", "2", "--steps", "3000")
    there = tmp_path / "there"
    with running(*sweep, "--on", "ray", "--address", cluster.address, "--results", str(there)) as started:
        head, lost = cluster.raylets
        wait_for(lambda: half_way(tree(lost)) or started.poll() is not None)
        assert started.poll() is None
        assert jobs_of(tree(head)), "both nodes work"
        for process in tree(lost):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert started.wait(timeout=2 * PATIENCE) == 0
    assert subprocess.run(command(*sweep, "--results", str(tmp_path / "here")), cwd=ROOT, check=False).returncode == 0
    assert_same_sweeps(there, tmp_path / "here", runs=6)


@pytest.mark.slow
def test_ctrl_c_ends_the_tasks_and_each_saves_its_step(tmp_path: Path) -> None:
    endless = ("--steps", "2000000", "--compile-from", "3000000")
    sweep = ("--backend", "pytorch", "--seed", "0", "1", "2", *endless, "--results", str(tmp_path))
    with running(*sweep, "--on", "ray") as started:
        under_way: list[Job] = []

        def all_half_way() -> bool:
            under_way[:] = jobs_of(tree(started.pid))
            most = min(3, os.cpu_count() or 1)
            assert len(under_way) <= most, "each run has a core of its own"
            return len(under_way) == most and all(job.checkpoint.exists() for job in under_way)

        wait_for(lambda: all_half_way() or started.poll() is not None)
        assert started.poll() is None
        there = tree(started.pid)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=PATIENCE)
    assert started.returncode == 130, said
    stopped = {
        name: int(step.replace(",", "")) for step, name in re.findall(r"stopped at step ([\d,]+) of .* in (\S+)\.\n", said)
    }
    assert stopped == {str(job.checkpoint): int(checkpoints.load(job.checkpoint).state["step"]) for job in under_way}
    assert said.endswith("Stopped; --resume goes on from here.\n")
    _, left = psutil.wait_procs(there, timeout=30)
    assert left == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "No Ray answers at 127.0.0.1:1 (Connection refused); start one with `ray start --head`, or leave out"),
        ("head", "No Ray answers at head (it must be HOST:PORT, as `ray start --head` prints it); start one"),
        ("ray://head:10001", "No Ray answers at ray://head:10001 ("),
    ],
)
def test_where_no_ray_answers_it_is_a_sentence(refused: Callable[..., str], tmp_path: Path, address: str, words: str) -> None:
    asked = ("--on", "ray", "--address", address, "--backend", "jax", "--results", str(tmp_path / "results"))
    shared, last = refused("run", "--variational", "flow", *asked).splitlines()
    assert shared == f"The nodes must share the folder of the results, {tmp_path / 'results'}, and this checkout, {ROOT}."
    assert last.startswith(words)


def test_a_run_that_another_has_stopped_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is taken away asks its processes to end: the run has saved its step, and has not failed."""
    said: list[Any] = []
    (job,) = grid_of(flags.asked_of(["--backend", "jax", "--variational", "flow", "--results", str(tmp_path)])).jobs
    monkeypatch.setattr(runs, "in_process", lambda job, **_: 143)
    with pytest.raises(engine.StoppedError):
        engine.attempt(job, said.append)
    monkeypatch.setattr(runs, "in_process", lambda job, **_: -9)
    assert engine.attempt(job, said.append) == -9
    assert said == [engine.STARTS] * 2
