"""`parity --checkpoints`: a checkpoint scores the same in every backend, and one that doesn't is seen."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import reports
from benchmarks.harness.processes import ProcessError
from benchmarks.outputs import markdown
from benchmarks.parity import checkpoints as comparing
from common import checkpoints, data, estimators, parameters
from common.checkpoints import Checkpoint
from common.config import Config
from common.noise import seed_for
from common.protocol import BACKENDS, load

pytestmark = pytest.mark.usefixtures("absent")


def checkpoint_of(family: str, **settings: object) -> Checkpoint:
    """A model with random weights on the digits, as TensorFlow would have trained it after PyTorch."""
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
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


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    path = tmp_path / "flow.h5"
    checkpoints.save(checkpoint_of("flow", dtype="float64", samples=50, images=30), path)
    return path


def here(target: str, question: dict[str, Any], *, title: str, folder: Path) -> Any:
    """`processes.ask`, without its process."""
    assert (target, folder) == ("benchmarks.parity.checkpoints:score", Path.cwd())
    return comparing.score(question)


def test_every_backend_gives_the_same_log_weights(
    flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparing, "ask", here)
    assert main(["parity", "--checkpoints", str(flow), "--results", str(tmp_path)]) == 0
    report = reports.read("cross-evaluate", tmp_path)
    assert report is not None
    (row,) = report["rows"]
    assert [part["backend"] for part in row["trained"]] == ["pytorch", "tensorflow"]
    assert row["backends"] == list(BACKENDS)
    assert 0 < row["deviation"] < 1e-12
    assert f"{row['deviation']:.1e}" in capsys.readouterr().out
    text = markdown.page(comparing.parts(report))
    assert f"| flow | pytorch 20 → tensorflow 60 | {row['deviation']:.1e} |" in text
    assert "- `quick` on binarized-digits, 60 steps; 25 samples of 100 images in pytorch, jax, tensorflow." in text


@pytest.mark.slow
def test_every_backend_scores_it_alike_on_noise_of_its_own(
    flow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.load(flow)
    config, test = checkpoint.config, data.load("binarized-digits", data_dir=None, binarize=None).test
    log_px = {}
    for name in BACKENDS:
        session = load(name).score(config, checkpoint.selected())
        log_px[name] = estimators.per_image(
            session,
            session.place(test),
            images=np.arange(len(test), dtype=np.int32),
            samples=config.evaluation.samples,
            seed=seed_for(config.training.seed, "test"),
            image_batch=config.evaluation.image_batch,
            sample_block=config.evaluation.sample_block,
            report=lambda images: None,
        ).log_px
    for one, other in combinations(BACKENDS, 2):
        difference = log_px[one] - log_px[other]
        error = estimators.standard_error(difference)
        assert 0 < abs(difference.mean()) < 5 * error, "each has noise of its own"
        # The images are the same: the error of a difference is far below that of a figure.
        assert error < estimators.standard_error(log_px[one]) / 3
    for name in BACKENDS:
        assert main(["evaluate", str(flow), "--backend", name, "--images", "0"]) == 0
        figure = f"log p(x) {log_px[name].mean():.3f} ± {estimators.standard_error(log_px[name]):.3f}"
        assert figure in capsys.readouterr().out


def test_the_report_of_before_is_shown_with_its_own_columns() -> None:
    report = reports.read("cross-evaluate", reports.REPORTS)
    assert report is not None
    text = markdown.page(comparing.parts(report))
    row = report["rows"][0]
    assert "evaluated" in row
    columns = "| family | trained by | in pytorch | in jax | in tensorflow | largest difference | given noise |"
    assert text.startswith(columns)
    assert f"| {row['difference']:+.4f} ± {row['difference_se']:.4f} | {row['deviation']:.1e} |" in text
    assert "- `standard` on binarized-mnist, 3,000 steps; 500 test images, K = 1,000." in text


def row_of(*, precision: str = "float32", factor: float = 1.0, name: str = "jax") -> comparing.Row:
    """A row whose log weights in one backend are multiplied by `factor`."""
    log_w = np.random.default_rng(1).normal(-90, 5, size=(25, 100))
    found = {backend: log_w * (factor if backend == name else 1) for backend in BACKENDS}
    return comparing.row(checkpoint_of("flow", dtype=precision), found, device="cpu")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_row_that_is_not_even_is_seen(name: str) -> None:
    assert comparing.even(row_of())
    assert comparing.even(row_of(factor=1 + 1e-6, name=name))
    uneven = row_of(factor=1 + 1e-4, name=name)
    assert not comparing.even(uneven)
    assert name in uneven["between"]
    assert not comparing.even(row_of(factor=1 + 1e-6, precision="float64", name=name))


def test_a_row_that_is_not_even_is_the_exit_code(
    flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_is_off(target: str, question: dict[str, Any], *, title: str, folder: Path) -> Any:
        return [np.full((25, 100), 1.0 + (title == "jax")).tolist()]

    monkeypatch.setattr(comparing, "ask", one_is_off)
    assert main(["parity", "--checkpoints", str(flow), "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "Not the same in every backend: flow, trained by pytorch 20 → tensorflow 60; "
        "jax and tensorflow are 1.0e+00 apart, more than 1e-12.\n"
    )
    assert (tmp_path / "cross-evaluate.json").exists()


def test_log_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    diverged = checkpoint_of("flow")
    diverged.state["parameters/decoder.out.bias"][:] = 3e38  # finite, and their sum isn't
    checkpoints.save(diverged, tmp_path / "flow.h5")
    question = {"device": "cpu", "data": [], "data_dir": None, "backend": "pytorch"}
    with pytest.raises(comparing.UserError, match=r"flow\.h5 has log weights in pytorch that are not finite"):
        comparing.score(question | {"checkpoints": [str(tmp_path / "flow.h5")]})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Which checkpoints?"),
        (("absent.h5",), "no checkpoint"),
        (("flow.h5", "--backend", "jax"), "two backends or more"),
        (("flow.h5", "--backend", "jax", "theano"), "no backend 'theano'"),
        (("other.h5",), "other data"),
        (("flow.h5", "other.h5"), "other data"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing, "ask", lambda *_, **__: pytest.fail("it evaluates"))
    checkpoints.save(checkpoint_of("flow"), Path("flow.h5"))
    checkpoints.save(dataclasses.replace(checkpoint_of("flow"), sha256="ab" * 32), Path("other.h5"))
    assert main(["parity", "--checkpoints", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("code", [1, 2, -9])
def test_an_evaluating_process_that_fails_ends_the_command(
    flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def failing(target: str, question: Any, *, title: str, folder: Path) -> None:
        raise ProcessError(title, code)

    monkeypatch.setattr(comparing, "ask", failing)
    assert main(["parity", "--checkpoints", str(flow), "--results", str(tmp_path / "reports")]) == 2
    assert not (tmp_path / "reports").exists()


def test_a_backend_that_is_not_installed_is_not_run_with_its_reason(
    flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], absent: dict[str, str]
) -> None:
    monkeypatch.setattr(comparing, "ask", here)
    absent["jax"] = "Backend 'jax' is unavailable."
    assert main(["parity", "--checkpoints", str(flow), "--results", str(tmp_path)]) == 0
    assert "jax: not run: Backend 'jax' is unavailable." in capsys.readouterr().out
    report = reports.read("cross-evaluate", tmp_path)
    assert report is not None
    assert report["rows"][0]["backends"] == ["pytorch", "tensorflow"]
