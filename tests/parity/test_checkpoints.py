"""A checkpoint scores the same in every backend, and a row that isn't flat is seen."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import reports
from benchmarks.parity import checkpoints as cross_evaluate
from benchmarks.parity.checkpoints import Scores, Task
from common import checkpoints, data, parameters
from common.checkpoints import Checkpoint
from common.config import Config
from common.estimators import PerImage
from common.protocol import BACKENDS


def checkpoint_of(family: str, **settings: object) -> Checkpoint:
    """A flow with random weights on the digits, as TensorFlow would have trained it after PyTorch."""
    digits = data.load("binarized-digits", data_dir=None)
    config = Config().replace(image_shape=(8, 8), latent_size=2, hidden_size=8, variational=family, **settings)
    draws = np.random.default_rng(0)
    values = {name: 0.1 * draws.normal(size=shape) for name, shape in parameters.shapes(config.model).items()}
    values["decoder.out.bias"] = data.pixel_log_odds(digits.train)
    # A posterior a little wider than the prior, so that no weight is large.
    values["encoder.out.bias"][2:4] += 0.7
    values |= {name: value + 10 for name, value in values.items() if name.endswith("gate_bias")}
    state = parameters.fresh_state(values, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    state["step"] = np.array(60)
    return Checkpoint(config, "tensorflow", "quick", digits.name, digits.sha256, state, earlier=[("pytorch", 20)])


def test_every_backend_gives_the_same_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(task: Task) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO(cross_evaluate.json.dumps(dataclasses.asdict(task))))
        return main(["cross-evaluate-worker"])

    monkeypatch.setattr(cross_evaluate, "in_process", in_this_process)
    path = tmp_path / "flow.h5"
    checkpoints.save(checkpoint_of("flow", dtype="float64", samples=50, images=30), path)
    assert main(["cross-evaluate", str(path), "--results", str(tmp_path)]) == 0
    report = reports.read("cross-evaluate", tmp_path)
    assert report is not None
    (row,) = report["rows"]
    assert [part["backend"] for part in row["trained"]] == ["pytorch", "tensorflow"]
    assert list(row["evaluated"]) == list(BACKENDS)
    assert 0 < row["deviation"] < 1e-12
    assert 0 < abs(row["difference"]) < 5 * row["difference_se"], "each has noise of its own"
    # The images are the same: the error of a difference is far below that of a figure.
    assert row["difference_se"] < row["evaluated"]["jax"]["log_px_se"] / 3

    # `evaluate` prints the same figure.
    capsys.readouterr()
    assert main(["evaluate", str(path), "--backend", "pytorch"]) == 0
    figure = row["evaluated"]["pytorch"]
    assert f"log p(x) {figure['log_px']:.3f} ± {figure['log_px_se']:.3f}" in capsys.readouterr().out

    text = cross_evaluate.markdown(report)
    assert "| flow | pytorch 20 → tensorflow 60 |" in text
    assert f"| {figure['log_px']:.3f} ± {figure['log_px_se']:.3f} |" in text
    assert "`quick` on binarized-digits, 60 steps; 30 test images, K = 50." in text


def row_of(*, precision: str = "float32", shift: float = 0.0, factor: float = 1.0, name: str = "jax") -> cross_evaluate.Row:
    """A row whose backends differ by noise of 0.1 nats an image; one is moved by `shift`, its log weights by `factor`."""
    draws = np.random.default_rng(1)
    truth, log_w = draws.normal(-90, 5, size=400), draws.normal(-90, 5, size=(25, 100))
    scores = {}
    for backend in BACKENDS:
        log_px = truth + draws.normal(0, 0.1, size=400) + (shift if backend == name else 0)
        test = PerImage(elbo=log_px - 5, log_px=log_px, ess=np.ones(400))
        scores[backend] = Scores(test=test, log_weights=log_w * (factor if backend == name else 1))
    return cross_evaluate.row(checkpoint_of("flow", dtype=precision), scores, samples=None, device="cpu")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_row_that_is_not_flat_is_seen(name: str) -> None:
    assert cross_evaluate.flat(row_of())
    assert not cross_evaluate.flat(row_of(shift=0.06, name=name)), "a hundredth of the error over images"
    assert cross_evaluate.flat(row_of(factor=1 + 1e-6, name=name))
    assert not cross_evaluate.flat(row_of(factor=1 + 1e-4, name=name))
    assert not cross_evaluate.flat(row_of(factor=1 + 1e-6, precision="float64", name=name))


def test_a_row_that_is_not_flat_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flow.h5"
    checkpoints.save(checkpoint_of("flow"), path)
    uneven = row_of(shift=1.0)
    monkeypatch.setattr(cross_evaluate, "in_process", lambda task: 0)
    monkeypatch.setattr(cross_evaluate, "read", lambda path, count: [None])
    monkeypatch.setattr(cross_evaluate, "row", lambda *_, **__: uneven)
    assert main(["cross-evaluate", str(path), "--results", str(tmp_path)]) == 1
    assert "Not flat: flow, trained by pytorch 20 → tensorflow 60." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Which checkpoints?"),
        (("absent.h5",), "no checkpoint"),
        (("flow.h5", "--backend", "jax"), "two or more"),
        (("flow.h5", "--backend", "jax", "theano"), "two or more"),
        (("flow.h5", "--images", "1"), "at least 2"),
        (("flow.h5", "--images", "301"), "300"),
        (("flow.h5", "--samples", "0"), "--samples"),
        (("other.h5",), "other data"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cross_evaluate, "in_process", lambda task: pytest.fail("it evaluates"))
    checkpoints.save(checkpoint_of("flow"), Path("flow.h5"))
    checkpoints.save(dataclasses.replace(checkpoint_of("flow"), sha256="ab" * 32), Path("other.h5"))
    assert main(["cross-evaluate", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("code", "ends"), [(2, 2), (3, 2), (-9, 2)])
def test_an_evaluating_process_that_fails_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ends: int
) -> None:
    checkpoints.save(checkpoint_of("flow"), tmp_path / "flow.h5")
    monkeypatch.setattr(cross_evaluate, "in_process", lambda task: code)
    assert main(["cross-evaluate", str(tmp_path / "flow.h5"), "--results", str(tmp_path / "reports")]) == ends
    assert not (tmp_path / "reports").exists()
