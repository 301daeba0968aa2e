"""The same settings give the same run, bit for bit, in another process too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import records
from benchmarks.harness.jobs import Job
from common.config import Config
from tests.harness.identical import assert_same_run

# `standard`'s widths and batch, so that its matrix products are shared among threads; everything that has a state of its own.
CONFIG = Config().replace(
    steps=20,
    warm_up=10,
    log_interval=10,
    validation_interval=10,
    ema_decay=0.9,
    selection="best-validation",
    chunk=10,
    samples=30,
    images=20,
    image_batch=20,
    sample_block=30,
)


def start(backend: str, folder: Path, **changes: Any) -> subprocess.Popen[str]:
    """A worker process on the digits."""
    folder.mkdir()
    job = Job(
        backend=backend,
        preset="quick",
        data="binarized-digits",
        data_dir=None,
        config=CONFIG.replace(image_shape=(8, 8), **changes),
        results=str(folder),
        resume=False,
    )
    command = [sys.executable, "-m", "benchmarks", "answer", "benchmarks.harness.runs:worker"]
    # Two processes' threads that spin while they wait would take most of each other's time.
    waiting = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=waiting)
    assert process.stdin is not None
    process.stdin.write(json.dumps(job.as_json()))
    process.stdin.close()
    process.stdin = None
    return process


# A run of JAX in three processes is in test_cache.py.
@pytest.mark.parametrize("backend", ["pytorch", pytest.param("jax", marks=pytest.mark.slow), "tensorflow"])
def test_a_run_is_the_same_in_another_process(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes at once, so that their threads meet in another order in each.

    JAX alone keeps the programs of a run as short as this.
    """
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    for process in [start(backend, tmp_path / name) for name in ("once", "again")]:
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert_same_run(tmp_path / "again", tmp_path / "once")
    (record,) = records.read_all(tmp_path / "once")
    kept = [path for path in tmp_path.glob("cache/programs/**/*") if path.is_file()]
    assert (record["timing"]["programs_compiled"] is not None) == bool(kept) == (backend == "jax")
