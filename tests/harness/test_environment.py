"""What a record says of the machine, the processor, the threads and the commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import environment, reports


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to another user")
def test_the_commit_of_another_users_checkout_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where the checkout is mounted: git alone would refuse it."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "-m", "first"], cwd=tmp_path, check=True)
    for place in (tmp_path, *tmp_path.rglob("*")):
        os.chown(place, 12345, 12345)
    refused = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    commit, dirty = environment.head()
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False


def test_the_environment_says_what_runs_where() -> None:
    described = environment.describe()
    assert described.keys() >= {"versions", "commit", "dirty", "machine", "threads", "load"}
    assert described["versions"]["numpy"] == np.__version__
    assert described["machine"]["cpu"]
    assert described["machine"]["memory_bytes"] > 0
    assert described["threads"]["cores"] >= 1
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_card_is_named_where_it_was_used(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    for name, value in {
        "Init": None,
        "DeviceGetHandleByIndex": 0,
        "DeviceGetName": "Card",
        "SystemGetDriverVersion": "7",
    }.items():
        monkeypatch.setattr(environment.pynvml, f"nvml{name}", lambda *_, value=value: value)
    assert environment.describe(device)["machine"]["gpu"] == ("Card, driver 7" if device == "cuda" else None)


def test_without_a_driver_no_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise environment.pynvml.NVMLError(environment.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(environment.pynvml, "nvmlInit", init)
    assert environment.describe("cuda")["machine"]["gpu"] is None


def test_a_processor_is_told_by_more_than_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(found: dict[str, Any]) -> str:
        monkeypatch.setattr(environment, "_processor", lambda: found)
        return reports.machine(environment.describe(), setting="cpu").split(";")[0]

    epyc = {"brand_raw": "AMD EPYC", "family": 25}
    assert line(epyc | {"model": 1, "flags": ["avx", "avx2"]}) == "AMD EPYC (family 25 model 1, avx2)"
    wide = epyc | {"model": 17, "flags": ["avx", "avx2", "avx512_bf16", "avx512f"]}
    assert line(wide) == "AMD EPYC (family 25 model 17, avx512_bf16)"
    assert line({"brand_raw": "Chip"}) == "Chip"


def test_thread_variables_are_noted_as_they_were_at_the_processs_start() -> None:
    code = "import os; from benchmarks.harness import environment; os.environ['MKL_NUM_THREADS'] = '5'; "
    code += "print(environment.describe()['threads']['variables'])"
    given = {name: value for name, value in os.environ.items() if not name.startswith(environment.DECIDING)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=environment.ROOT, env=given | {"OMP_NUM_THREADS": "3"}, capture_output=True, check=True)
    assert told.stdout.decode().strip() == "{'OMP_NUM_THREADS': '3'}"


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    described = environment.describe()
    assert (described["commit"], described["dirty"]) == (None, None)
