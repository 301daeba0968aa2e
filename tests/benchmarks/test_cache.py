"""A program from the persistent cache gives the same run, bit for bit, and the record says that nothing was compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import records, tables
from common import cache
from common.errors import UserError
from common.protocol import BACKENDS
from tests.benchmarks.identical import assert_same_run
from tests.benchmarks.test_determinism import start

SMALL = {
    "variational": "mean-field",
    "hidden_size": 16,
    "latent_size": 4,
    "steps": 10,
    "warm_up": 5,
    "chunk": 5,
    "validation_interval": 5,
}


def run(backend: str, folder: Path, **changes: Any) -> records.Record:
    process = start(backend, folder, **SMALL | changes)
    _, error = process.communicate()
    assert process.returncode == 0, error
    (record,) = records.read_all(folder)
    return record


@pytest.mark.parametrize("backend", ["jax", "pytorch"])
def test_the_second_process_compiles_nothing(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    cold, warm = (run(backend, tmp_path / name, compile_from=10) for name in ("cold", "warm"))
    assert cold["timing"]["programs_compiled"] > 0
    assert warm["timing"]["programs_compiled"] == 0
    assert_same_run(tmp_path / "warm", tmp_path / "cold")
    shown = [tables.cells(record)["compile (s)"].endswith("(cached)") for record in (cold, warm)]
    assert shown == [False, True]


def test_without_a_cache_programs_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = run("jax", tmp_path / "kept")
    monkeypatch.setenv(cache.SWITCH, "0")
    off = run("jax", tmp_path / "off")
    assert kept["timing"]["programs_compiled"] is not None
    assert off["timing"]["programs_compiled"] is None
    assert_same_run(tmp_path / "off", tmp_path / "kept")
    assert not tables.cells(off)["compile (s)"].endswith("(cached)")


def test_without_a_cache_jax_keeps_none_of_its_own_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv(cache.SWITCH, "0")
    assert run("jax", tmp_path / "off")["timing"]["programs_compiled"] is None
    assert not (tmp_path / "jax").exists()


@pytest.mark.parametrize("switch", ["0", "1"])
def test_pytorchs_compiler_is_told_so(switch: str) -> None:
    """Without a run, since compiling once more takes long."""
    code = "import torch, backends.pytorch.session; print(torch.compiler.config.force_disable_caches)"
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {cache.SWITCH: switch}, check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == str(switch == "0")


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "jax"])
def test_the_others_keep_no_programs_of_short_runs(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    assert run(backend, tmp_path / "run")["timing"]["programs_compiled"] is None
    assert not [path for path in tmp_path.glob("cache/programs/**/*") if path.is_file()]


def test_each_kind_of_processor_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code of one may not run on another, and a home folder may be shared."""
    ours = cache.programs()
    assert ours is not None
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags\t: fpu other\n")
    assert cache.programs() not in (None, ours)


def test_a_switch_is_0_or_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SWITCH, "0")
    assert cache.programs() is None
    monkeypatch.setenv(cache.SWITCH, "no")
    with pytest.raises(UserError, match=cache.SWITCH):
        cache.programs()
