"""A program from the persistent cache gives the same run, bit for bit, and the record says that nothing was compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import records, tables
from common import cache
from common.errors import UserError
from common.protocol import BACKENDS
from tests.benchmarks.identical import assert_same_run
from tests.benchmarks.test_determinism import start

SMALL = {"hidden_size": 16, "latent_size": 4, "flow_depth": 1, "steps": 10, "warm_up": 5, "chunk": 5, "validation_interval": 5}


def run(backend: str, folder: Path) -> records.Record:
    process = start(backend, folder, **SMALL)
    _, error = process.communicate()
    assert process.returncode == 0, error
    (record,) = records.read_all(folder)
    return record


def test_the_second_process_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    cold, warm = (run("jax", tmp_path / name) for name in ("cold", "warm"))
    monkeypatch.setenv(cache.SWITCH, "0")
    off = run("jax", tmp_path / "off")
    assert cold["timing"]["programs_compiled"] > 0
    assert warm["timing"]["programs_compiled"] == 0
    assert off["timing"]["programs_compiled"] is None
    assert_same_run(tmp_path / "warm", tmp_path / "cold")
    assert_same_run(tmp_path / "off", tmp_path / "cold")
    shown = [tables.cells(record)["compile (s)"].endswith("(cached)") for record in (cold, warm, off)]
    assert shown == [False, True, False]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "jax"])
def test_the_others_keep_no_programs(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    assert run(backend, tmp_path / "run")["timing"]["programs_compiled"] is None
    assert not (tmp_path / "cache" / "programs").exists()


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
