"""Where one framework alone is installed: what wasn't asked for is left out in a line, and what can't be done is a sentence."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.commands.export import FORMATS
from benchmarks.gates import compare
from benchmarks.harness import cli, records, runs
from benchmarks.harness.jobs import Job
from benchmarks.outputs import published
from common import checkpoints, data, parameters, protocol
from common.checkpoints import Checkpoint
from common.config import Config
from common.errors import UserError

LEFT_OUT = "Left out, since not installed here: pytorch (no torch), tensorflow (no tensorflow).\n"


@pytest.fixture(autouse=True)
def jax_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "tensorflow") else find(name))
    for backend in ("pytorch", "tensorflow"):  # what Python does with this is an ImportError
        monkeypatch.setitem(sys.modules, f"backends.{backend}.session", None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained model's file, of PyTorch."""
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    config = Config().replace(latent_size=2, hidden_size=8, samples=3, image_shape=digits.image_shape)
    initial = parameters.initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(64))
    state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    path = tmp_path / "model.h5"
    checkpoints.save(Checkpoint(config, "pytorch", "standard", digits.name, digits.sha256, state), path)
    return path


def test_the_packages_of_a_backend_are_those_that_its_folder_imports() -> None:
    for backend, packages in protocol.PACKAGES.items():
        imported = set()
        for path in (Path(protocol.__file__).parents[1] / "backends" / backend).glob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            imported |= {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            imported |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        third = imported - set(sys.stdlib_module_names) - {"backends", "common", "numpy", "jaxtyping", "beartype"}
        assert third == set(packages), backend


def test_what_is_not_installed_is_said_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.installed() == ("jax",)
    assert capsys.readouterr().err == LEFT_OUT
    assert cli.installed(("jax",)) == ("jax",)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(protocol.PACKAGES, "jax", ("jax", "torch"))
    with pytest.raises(UserError, match=r"Not installed here: jax \(no torch\), pytorch \(no torch\); environments/ has"):
        cli.installed(("jax", "pytorch"))


def test_run_has_no_row_for_what_was_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Job] = []

    def done(job: Job, **_: object) -> int:
        started.append(job)
        records.write(job.blank(dataset=job.dataset()) | {"status": "ok", "reason": None}, Path(job.results))
        return 0

    monkeypatch.setattr(runs, "in_process", done)
    assert main(["run", "--results", str(tmp_path)]) == 0
    assert {job.backend for job in started} == {"jax"}
    printed = capsys.readouterr()
    assert printed.err.startswith(LEFT_OUT)
    assert printed.err.count("pytorch") == 1
    assert "pytorch" not in printed.out
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert main(["run", "--results", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_parity_says_at_once_that_it_needs_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "described", lambda name: pytest.fail("a process is started"))
    for asked in ([], ["--backend", "jax", "pytorch"]):
        assert main(["parity", *asked]) == 2
        assert "Parity needs two backends or more that are installed here, and has jax;" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate {}", "run --from {}"])
def test_a_checkpoint_of_another_backend_is_offered_to_the_one_that_is_here(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([*command.format(checkpoint).split(), *(["--results", str(tmp_path / "new")] * command.startswith("run"))]) == 2
    said = "model.h5 was trained by pytorch, which isn't installed here (no torch); give --backend jax.\n"
    assert capsys.readouterr().err.endswith(said)


def test_evaluate_takes_the_offer(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax")
    assert main(["evaluate", str(checkpoint), "--backend", "jax"]) == 0
    assert "log p(x)" in capsys.readouterr().out


def test_an_export_to_a_framework_that_is_not_here_is_a_sentence(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for to, backend in FORMATS.items():
        if backend != "jax":
            assert main(["export", str(checkpoint), "--to", to]) == 2
            assert f"Backend '{backend}' is unavailable" in capsys.readouterr().err
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_reproduce_runs_the_rows_that_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Job] = []

    def again(job: Job) -> int:
        started.append(job)
        (old,) = (r for r in rows if (r["backend"], r["variational"]) == (job.backend, job.config.model.variational))
        records.write(json.loads(json.dumps(old)), Path(job.results))
        return 0

    rows = published.rows("quick", records.read_all(records.RECORDS))
    monkeypatch.setattr(runs, "in_process", again)
    assert main(["reproduce", "quick", "--results", str(tmp_path)]) == 0
    assert {job.backend for job in started} == {"jax"}
    printed = capsys.readouterr()
    assert printed.err == LEFT_OUT
    assert "2 of 2 rows agree; 4 left out." in printed.out


def test_compare_times_what_is_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    timed: list[str] = []

    def judge(base: Path, head: Path, what: compare.What, **_: object) -> compare.Verdict:
        timed.append(what.backend)
        return compare.Verdict([1.0], False)

    monkeypatch.setattr(compare, "judge", judge)
    assert main(["compare"]) == 0
    assert set(timed) == {"jax"}
    assert capsys.readouterr().err.startswith(LEFT_OUT)
    assert main(["compare", "-k", "pytorch train 128"]) == 2
    assert "Not installed here: pytorch (no torch)" in capsys.readouterr().err
