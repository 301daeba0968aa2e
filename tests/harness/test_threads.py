"""Threads of a run's process, and the mark of a run beside other programs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from benchmarks.harness import environment, processes, runs, threads
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.outputs import cells
from common import protocol
from tests.harness.example import example


@pytest.mark.parametrize("name", threads.WAITING)
def test_the_environments_own_word_on_waiting_holds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in threads.WAITING:
        monkeypatch.delenv(each, raising=False)
    assert threads.variables(None, disturbed=False) == threads.SPINNING
    assert threads.variables(None, disturbed=True) == threads.SLEEPING
    monkeypatch.setenv(name, "7")
    assert threads.variables(None, disturbed=True) == {}
    assert set(threads.variables(3, disturbed=True)) == set(threads.COUNTS)


def working(backend: str) -> float:
    """CPU seconds over seconds of large matrix products: the threads that work at a time."""
    launch = protocol.probes(backend).products(products=[(1000, 1000, 1000)], device="cpu", dtype="float32")
    launch(1)
    start, used = time.perf_counter(), time.process_time()
    launch(40)
    return (time.process_time() - used) / (time.perf_counter() - start)


@pytest.mark.slow
@pytest.mark.parametrize("backend", protocol.BACKENDS)
def test_one_thread_keeps_one_core_busy(backend: str) -> None:
    assert processes.ask(f"{__name__}:working", backend, title=backend, variables=threads.variables(1, disturbed=False)) < 1.1


@pytest.mark.skipif(not environment.LOADAVG.exists(), reason="this system has no /proc")
def test_other_programs_that_use_more_than_the_cores_are_noticed() -> None:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (psutil.cpu_count() or 1) + 1)]
    try:
        assert environment.crowded(environment.runnable(), environment.machine())
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert not environment.crowded(None, {"logical_cores": 2})
    assert not environment.crowded(1.0, None)


@pytest.mark.parametrize(("others", "waiting"), [(1e6, threads.SLEEPING), (0.0, threads.SPINNING)])
def test_one_measurement_decides_how_threads_wait_and_is_on_the_record(
    monkeypatch: pytest.MonkeyPatch, others: float, waiting: dict[str, str]
) -> None:
    for name in threads.WAITING:
        monkeypatch.delenv(name, raising=False)
    asked: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(environment, "runnable", lambda: others)
    monkeypatch.setattr(processes, "ask", lambda _, text, *, variables, **more: asked.append((text, variables)) or 0)
    runs.in_process(Job("jax", "quick", "binarized-digits", None, preset("quick"), "results", resume=False))
    ((text, variables),) = asked
    assert Job.from_json(text).runnable == others
    assert variables == waiting


@pytest.mark.parametrize(("others", "said"), [(9.0, True), (1.0, False), (None, False)])
def test_a_row_measured_beside_other_programs_says_so(others: float | None, said: bool) -> None:
    record: dict[str, Any] = example()
    record["environment"] |= {"runnable": others, "machine": {"logical_cores": 2}}
    assert any("Other programs" in remark for remark in cells.remarks([record])) == said
