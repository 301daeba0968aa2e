"""A program from the persistent cache gives the same run, bit for bit, and the record says that nothing was compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pooch
import pytest

from benchmarks.harness import records
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import cells
from common import cache, data
from common.errors import UserError
from tests.harness.identical import assert_same_run
from tests.harness.test_determinism import start

SMALL = {
    "variational": "mean-field",
    "hidden_size": 16,
    "latent_size": 4,
    "steps": 10,
    "warm_up": 5,
    "chunk": 5,
    "validation_interval": 5,
}


def run(backend: str, folder: Path, **changes: Any) -> Record:
    process = start(backend, folder, **SMALL | changes)
    _, error = process.communicate()
    assert process.returncode == 0, error
    (record,) = records.read_all(folder)
    return record


@pytest.mark.parametrize("backend", ["jax", pytest.param("pytorch", marks=pytest.mark.slow)])
def test_the_second_process_compiles_nothing(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    cold, warm = (run(backend, tmp_path / name, compile_from=10) for name in ("cold", "warm"))
    assert cold["timing"]["programs_compiled"] > 0
    assert warm["timing"]["programs_compiled"] == 0
    assert_same_run(tmp_path / "warm", tmp_path / "cold")
    shown = [cells.of(record, floors={})["compile (s)"].endswith("(cached)") for record in (cold, warm)]
    assert shown == [False, True]
    if backend == "jax":
        without_a_cache(tmp_path, monkeypatch)
        with_programs_cut_short(tmp_path, monkeypatch)


def without_a_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, and JAX keeps none of its own either."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "its own"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv(cache.SWITCH, "0")
    off = run("jax", folder / "off", compile_from=10)
    assert off["timing"]["programs_compiled"] is None
    assert not (folder / "its own").exists()
    assert_same_run(folder / "off", folder / "cold")
    assert not cells.of(off, floors={})["compile (s)"].endswith("(cached)")


def with_programs_cut_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are removed and compiled anew: the third process finds them whole. Whole ones stay."""
    monkeypatch.setenv(cache.SWITCH, "1")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    kept = sorted((folder / "cache").rglob("*-cache"), key=lambda path: -path.stat().st_size)
    kept[0].write_bytes(b"")
    kept[1].write_bytes(kept[1].read_bytes()[:-100])
    for path in (*kept, *(folder / "cache").rglob("looked")):
        os.utime(path, (path.stat().st_mtime - 100, path.stat().st_mtime - 100))
    healed, warm = (run("jax", folder / name, compile_from=10) for name in ("healed", "warm again"))
    assert [record["timing"]["programs_compiled"] for record in (healed, warm)] == [2, 0]
    assert_same_run(folder / "healed", folder / "cold")


def test_a_program_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bytes] = []

    def whole(program: bytes) -> bool:
        asked.append(program)
        return program == b"whole"

    for name, content in (("a-cache", b"whole"), ("b-cache", b"wh"), ("other", b"wh")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1e9, 1e9))
    for _ in range(2):
        cache.remove_cut_short(tmp_path, "*-cache", whole=whole)
    assert sorted(asked) == [b"wh", b"whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cache", "looked", "other"]
    assert f"{tmp_path / 'b-cache'} is cut short" in capsys.readouterr().err
    (tmp_path / "a-cache").write_bytes(b"who")  # cut short later, or being written
    cache.remove_cut_short(tmp_path, "*-cache", whole=whole)
    assert (tmp_path / "a-cache").exists()
    monkeypatch.setattr(cache, "SETTLED", -1)
    cache.remove_cut_short(tmp_path, "*-cache", whole=whole)
    assert not (tmp_path / "a-cache").exists()


def test_pytorchs_compiler_is_told_so() -> None:
    """Without a run, since compiling once more takes long."""
    code = "import torch, backends.pytorch.session; print(torch.compiler.config.force_disable_caches)"
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {cache.SWITCH: "0"}, check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == "True"


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


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """HOME isn't set, and the user's number has no name, as in a container."""

    def no_home(_: str) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VAEBENCH_CACHE_DIR", raising=False)
    monkeypatch.setattr(pooch, "os_cache", no_home)
    assert cache.folder() is None
    assert cache.programs() is None
    assert "since this user has no home; set VAEBENCH_CACHE_DIR to a folder." in capsys.readouterr().err
    assert data.mnist_cache() is None
    data._keep_mnist({})
    assert "Going on without a cache, since this user has no home" in capsys.readouterr().err


def test_a_full_disk_keeps_no_programs_and_has_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each framework would say so for each program."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    code = f"{limited}; from common import cache; print(cache.programs())"
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("Compiled programs aren't kept, since ")
    assert "can't be written (No space left on device)" in line


def test_where_no_program_can_be_kept_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "file"))
    assert cache.programs() is None
    assert "Compiled programs aren't kept, since " in capsys.readouterr().err
