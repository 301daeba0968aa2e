"""The command `parity`: its report, its table, and what it says of backends that aren't there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import cli
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.processes import ProcessError
from benchmarks.outputs import markdown
from benchmarks.parity import comparison, ladder
from benchmarks.parity.command import present, standard_images
from benchmarks.parity.comparison import Job
from common.parameters import State
from common.protocol import load

pytestmark = pytest.mark.usefixtures("absent")


def fake(*, off: float):
    """In place of `comparison.measure`: every rung holds the number 1, in the second backend 1 + `off`."""

    def measure(backends, scenarios, *, images: State, folder: Path, threads: int | None) -> dict[str, Job]:
        jobs = {backend: Job(backend, scenarios, "", str(folder), threads) for backend in backends}
        for number, scenario in enumerate(scenarios):
            dtype = scenario.config.dtype
            for i, job in enumerate(jobs.values()):
                value = np.asarray(1 + off * (i == 1), dtype)
                arrays = {f"{rung}/x": value if rung == "gradients" else np.zeros(1, dtype) for rung in scenario.rungs}
                np.savez(job.file(number), **arrays)
        return jobs

    return measure


def test_the_report_has_the_worst_row_of_each_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "measure", fake(off=2**-40))
    assert main(["parity", "--sizes", "small", "--results", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "parity.json").read_text())
    rows = [row for row in report["rows"] if (row["rung"], row["dtype"]) == ("gradients", "float64")]
    assert [row["pair"] for row in rows] == [["pytorch", "jax"], ["pytorch", "tensorflow"], ["jax", "tensorflow"]]
    assert [row["deviation"] for row in rows] == pytest.approx([2**-40, 0, 2**-40])
    assert report["scenarios"] == [scenario.name for scenario in ladder.small()]
    table = markdown.page(comparison.parts(report))
    assert "| float64 | the gradient of every parameter | 1.0e-10 | 9.1e-13 | 0 | 9.1e-13 |" in table
    assert "not run" not in table


def test_a_gpu_has_a_report_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()

    def measure(backends, scenarios, **rest) -> dict[str, Job]:
        devices.update(scenario.config.device for scenario in scenarios)
        return fake(off=0)(backends, scenarios, **rest)

    monkeypatch.setattr(comparison, "measure", measure)
    assert main(["parity", "--sizes", "small", "--device", "cuda", "--results", str(tmp_path)]) == 0
    assert devices == {"cuda"}
    assert [path.name for path in tmp_path.iterdir()] == ["parity-cuda.json"]
    assert "; cuda; " in markdown.page(comparison.parts(json.loads((tmp_path / "parity-cuda.json").read_text())))


def test_where_there_is_no_gpu_it_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    if "cuda" in load("pytorch").describe().devices:
        pytest.skip("there is a GPU")
    arguments = ["--backend", "pytorch", "jax", "--device", "cuda", "--results", str(tmp_path)]
    assert main(["parity", "--sizes", "small", *arguments]) == 2
    assert "has no device 'cuda' here; use --device cpu" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_rung_is_one_sentence_and_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "measure", fake(off=1e-3))
    assert main(["parity", "--sizes", "small", "--results", str(tmp_path)]) == 1
    message = "gradients (flow adam-decay float64): x of pytorch is 1.0e-03 off that of jax, more than 1e-10.\n"
    assert capsys.readouterr().err == message
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_is_not_installed_is_not_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: dict[str, str]
) -> None:
    monkeypatch.setattr(comparison, "measure", fake(off=0))
    absent["jax"] = "No module named 'jax'."
    assert main(["parity", "--sizes", "small", "--results", str(tmp_path)]) == 0
    table = markdown.page(comparison.parts(json.loads((tmp_path / "parity.json").read_text())))
    assert "| precision | quantity | allowed | pytorch – jax | pytorch – tensorflow | jax – tensorflow |" in table
    assert "| float64 | the gradient of every parameter | 1.0e-10 | not run | 0 | not run |" in table
    assert "- jax: not run: No module named 'jax'." in table


@pytest.mark.parametrize(
    ("asked", "missing", "message"),
    [
        ([], {"jax": "gone", "tensorflow": "gone"}, "two backends or more"),
        (["--backend", "pytorch"], {}, "two backends or more"),
        (["--backend", "jax", "jax"], {}, "two backends or more"),
        (["--backend", "mxnet", "jax"], {}, "There is no backend 'mxnet'"),
    ],
)
def test_what_is_asked_for_and_missing_is_an_error(
    tmp_path: Path, absent: dict[str, str], capsys: pytest.CaptureFixture[str], asked, missing, message: str
) -> None:
    absent |= missing
    assert main(["parity", "--sizes", "small", "--results", str(tmp_path), *asked]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_worker_whose_framework_is_missing_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code").mkdir()
    for name in ("benchmarks", "common"):
        (tmp_path / "code" / name).symlink_to(ROOT / name)
    job = Job("pytorch", [], "", str(tmp_path), 1)
    with pytest.raises(ProcessError, match="pytorch ended with code 2"):
        comparison.in_process(job, root=tmp_path / "code")
    assert "Backend 'pytorch' is unavailable" in capfd.readouterr().err


def test_a_worker_that_crashes_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(comparison.BrokenRungError, match="process of pytorch ended with code 1; its message stands above"):
        comparison.in_process(Job("pytorch", [], str(tmp_path / "nowhere.npz"), str(tmp_path), 1))
    assert "nowhere.npz" in capfd.readouterr().err


def test_without_mnist_the_images_are_random_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAEBENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path))
    name, images = standard_images(None)
    assert "random" in name
    assert images["train"].shape[1] == 784
    sizes = {scenario.config.training.batch_size for scenario in ladder.standard(STANDARD)}
    assert all(len(images["train"]) % size for size in sizes), "an epoch ends within a batch"
    for family in ("mean-field", "flow"):
        assert {s.config.dtype for s in ladder.standard(STANDARD) if s.config.model.variational == family} == {
            "float64",
            "float32",
        }


def test_a_backend_without_the_device_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"pytorch": ["cpu", "cuda"], "jax": ["cpu"], "tensorflow": ["cpu", "cuda"]}
    monkeypatch.setattr(cli, "described", lambda name: ({"devices": devices[name]}, ""))
    assert present((), device="cpu") == (["pytorch", "jax", "tensorflow"], {})
    assert present((), device="cuda") == (["pytorch", "tensorflow"], {"jax": "it has no device cuda here."})
    assert present(("jax", "pytorch"), device="cuda") == (["jax", "pytorch"], {}), "it fails in its process, and says why"
