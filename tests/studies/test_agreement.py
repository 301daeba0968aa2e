"""The first steps of a longer run, two backends side by side, and the report that compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.__main__ import main
from benchmarks.harness import reports
from benchmarks.harness.presets import QUICK
from benchmarks.studies import agreement, skeleton
from common import checkpoints, data, training
from common.checkpoints import Checkpoint
from common.schedules import kl_weights, learning_rates

STEPS = 3


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends whose runs were trained, in this process."""
    asked: list[str] = []

    def ask(target: str, point: dict[str, Any], *, title: str) -> dict[str, Any]:
        asked.append(point["backend"])
        return agreement.measure(point)

    monkeypatch.setattr(skeleton.processes, "ask", ask)
    return asked


def run(folder: Path, *arguments: str) -> int:
    common = ("--preset", "quick", "--data", "binarized-digits", "--variational", "mean-field", "--dtype", "float64")
    common += ("--backend", "pytorch", "jax", "--steps", str(STEPS), "--results", str(folder))
    return main(["study", "agreement", *common, *arguments])


def test_two_backends_agree_and_one_weight_apart_is_seen(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert trained == ["pytorch", "jax"]
    report = reports.read("agreement", tmp_path)
    assert report is not None
    assert (report["steps"], report["schedule_steps"]) == (STEPS, QUICK.training.steps)
    (found,) = report["runs"]
    (pair,) = found["pairs"]
    assert found["step"] == [1, 2, 3]
    assert max(pair["difference"]) < 1e-12
    assert pair["parameters"]["deviation"] < 1e-9
    assert imread(tmp_path / "agreement.png").shape[0] > 100
    assert "pytorch − jax" in capsys.readouterr().out

    # Resumed, nothing is trained, whether the point or only its checkpoint is there: what is changed on the disk is compared.
    path = next(tmp_path.glob("*pytorch*.h5"))
    checkpoint = checkpoints.load(path)
    checkpoint.state["parameters/decoder.out.weight"][0, 0] += 1
    checkpoints.save(checkpoint, path)
    (tmp_path / "points" / "float64_mean-field_pytorch.json").unlink()
    assert run(tmp_path, "--resume") == 0
    assert trained == ["pytorch", "jax", "pytorch"]
    report = reports.read("agreement", tmp_path)
    assert report is not None
    worst = report["runs"][0]["pairs"][0]["parameters"]
    assert worst["tensor"] == "decoder.out.weight"
    assert worst["deviation"] > 0.1

    assert run(tmp_path, "--resume", "--steps", "2") == 2
    assert f"is at step {STEPS}, past 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--backend", "jax"), "two backends or more"),
        (("--steps", "0"), "from 1 to the preset's own, 2,000"),
        (("--steps", "2001"), "from 1 to the preset's own, 2,000"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...], words: str
) -> None:
    assert run(tmp_path, *wrong) == 2
    assert words in capsys.readouterr().err
    assert trained == []


class Recorder:
    """A session that does nothing and remembers what it was asked to train."""

    def __init__(self) -> None:
        self.step = 0
        self.asked: dict[str, list[Any]] = {"indices": [], "learning_rates": [], "kl_weights": [], "noise": []}

    def place(self, images: np.ndarray) -> np.ndarray:
        return images

    def train(self, handle: Any, *, first_step: int, seed: int, **chunk: Any) -> tuple[np.ndarray, np.ndarray]:
        assert first_step == self.step
        self.step += len(chunk["indices"])
        for name, values in self.asked.items():
            values.extend(chunk[name])
        return np.zeros(len(chunk["indices"])), np.zeros(len(chunk["indices"]))

    def log_weights(self, handle: Any, indices: np.ndarray, *, samples: range, **_: Any) -> np.ndarray:
        return np.zeros((len(samples), len(indices)))

    def state(self) -> dict[str, np.ndarray]:
        return {"step": np.array(self.step)}

    def synchronize(self) -> None: ...


def test_a_run_that_stops_early_is_the_first_steps_of_the_whole_one() -> None:
    config = QUICK.replace(image_shape=(8, 8), noise="shared", steps=60, warm_up=40, chunk=25, validation_interval=30)
    dataset = data.load("binarized-digits", data_dir=None, binarize=None)
    whole, parts = Recorder(), Recorder()
    saved: list[int] = []

    def train(session: Recorder, checkpoint: Checkpoint, until: int | None) -> None:
        training.train(
            session,  # type: ignore[arg-type]
            checkpoint,
            dataset=dataset,
            save=lambda checkpoint: saved.append(int(checkpoint.state["step"])),
            until=until,
        )

    def fresh() -> Checkpoint:
        return Checkpoint(config, "none", "quick", dataset.name, dataset.sha256, {"step": np.array(0)})

    train(whole, fresh(), None)
    assert saved == [30, 60]
    checkpoint = fresh()
    train(parts, checkpoint, 7)
    assert saved == [30, 60, 7]
    assert parts.step == 7
    window = {"first_step": 0, "steps": 7}
    assert np.array_equal(parts.asked["learning_rates"], learning_rates(config.optimizer, total_steps=60, **window))
    assert np.array_equal(parts.asked["kl_weights"], kl_weights(config.training, **window))
    train(parts, checkpoint, None)
    for name, values in whole.asked.items():
        assert np.array_equal(values, parts.asked[name]), name


def test_windows_keep_every_step_once_and_the_early_ones_apart() -> None:
    for steps in (1, 3, 20, 21, 99, 100, 101, 2000):
        cut = agreement.windows(np.arange(steps))
        assert np.array_equal(np.concatenate(cut), np.arange(steps))
    sizes = [len(window) for window in cut]
    assert sizes == [1] * 20 + [5] * 16 + [20] * 95


def test_the_worst_tensor_is_the_one_that_deviates_most() -> None:
    theirs = {"a": np.array([1.0, -4.0]), "b": np.array([8.0, 0.0])}
    a, b = {"a": np.array([2.0, -4.0])}, {"b": np.array([8.0, 4.0])}
    assert agreement.worst_of(a | {"b": theirs["b"]}, theirs) == {"deviation": 0.25, "tensor": "a"}
    assert agreement.worst_of(a | b, theirs) == {"deviation": 0.5, "tensor": "b"}
