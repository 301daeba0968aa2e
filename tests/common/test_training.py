"""A training whose numbers stop being finite ends within the chunk, says where, and saves none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common import training
from common.checkpoints import Checkpoint
from common.config import Config
from common.data import Dataset

IMAGES = np.zeros((8, 4), np.uint8)
DATASET = Dataset(name="", sha256="", train=IMAGES, valid=IMAGES, test=IMAGES, image_shape=(2, 2))
CONFIG = Config().replace(
    image_shape=(2, 2), batch_size=4, steps=60, chunk=5, log_interval=20, validation_interval=20, warm_up=0, ema_decay=0.9
)


class Session:
    """A session without a model, in which one number goes bad after so many steps."""

    def __init__(self, *, objective: int = 99, elbo: int = 99, validation: int = 99, parameter: int = 99, number: float):
        self.steps, self.number = 0, number
        self.bad = {"objective": objective, "elbo": elbo, "validation": validation, "parameter": parameter}

    def train(self, handle: Any, indices: np.ndarray, *, first_step: int, **_: Any) -> tuple[np.ndarray, np.ndarray]:
        self.steps = first_step + len(indices)
        steps = np.arange(first_step + 1, self.steps + 1)
        return tuple(np.where(steps >= self.bad[name], self.number, -1.0) for name in ("objective", "elbo"))

    def log_weights(self, handle: Any, indices: np.ndarray, *, samples: range, **_: Any) -> np.ndarray:
        return np.full((len(samples), len(indices)), self.number if self.steps >= self.bad["validation"] else -1.0)

    def state(self) -> dict[str, np.ndarray]:
        weight = np.array([[1.0, self.number if self.steps >= self.bad["parameter"] else 2.0]])
        return {"step": np.array(self.steps), "parameters/out.weight": weight, "ema/out.weight": np.ones((1, 2))}

    def place(self, images: np.ndarray) -> np.ndarray:
        return images

    def synchronize(self) -> None:
        pass


def trained(session: Session, *, stop_at: int = 99) -> list[tuple[int, bool]]:
    """(step, whether every number is finite) of each checkpoint that was saved. Raises what `training.train` raises."""
    saved: list[tuple[int, bool]] = []

    def save(checkpoint: Checkpoint) -> None:
        finite = all(np.isfinite(value).all() for value in [*checkpoint.state.values(), *checkpoint.history["elbo"]])
        saved.append((int(checkpoint.state["step"]), finite))

    checkpoint = Checkpoint(CONFIG, "none", "", "", "", {"step": np.array(0)})
    try:
        training.train(
            session,  # type: ignore[arg-type]
            checkpoint,
            dataset=DATASET,
            save=save,
            stop=lambda: session.steps >= stop_at,
        )
    finally:
        trained.saved = saved  # type: ignore[attr-defined]
    return saved


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"objective": 47}, "objective is {} at step 47; the checkpoint of step 40 stays"),
        ({"elbo": 43}, "ELBO is {} at step 43; the checkpoint of step 40 stays"),
        ({"objective": 48, "elbo": 46}, "ELBO is {} at step 46; the checkpoint of step 40 stays"),
        ({"objective": 3}, "objective is {} at step 3; no step was saved"),
        ({"validation": 40}, "validation ELBO is {} at step 40; the checkpoint of step 20 stays"),
        ({"parameter": 60}, "parameters/out.weight is {} at step 60; the checkpoint of step 40 stays"),
    ],
)
def test_a_divergence_is_named_and_never_saved(bad: dict[str, int], said: str, number: float) -> None:
    with pytest.raises(training.DivergedError, match=f"The run diverged: {said.format(number)}. Try a lower --learning-rate"):
        trained(Session(**bad, number=number))
    assert all(finite for _, finite in trained.saved)  # type: ignore[attr-defined]


def test_a_stopped_run_saves_no_diverged_state() -> None:
    with pytest.raises(training.DivergedError, match=r"out\.weight is nan at step 45; the checkpoint of step 40 stays"):
        trained(Session(parameter=45, number=np.nan), stop_at=45)


def test_a_sound_run_is_saved_at_each_validation() -> None:
    assert trained(Session(number=np.nan)) == [(20, True), (40, True), (60, True)]
