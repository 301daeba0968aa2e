"""What a run in training tells its listener: the curve's new points, validations, and images of the model as it is."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import events
from benchmarks.harness.packing import packed
from common.checkpoints import Checkpoint
from common.data import Dataset
from common.noise import PREVIEWS, generator
from common.protocol import Scorer
from common.schedules import kl_weights, learning_rates

IMAGES = 16  # samples, and as many reconstructions


class Curve:
    """Tells the points and validations that a checkpoint's history has gained."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.points, self.validations = (len(checkpoint.history.get(column, ())) for column in ("step", "valid_step"))

    def tell(self) -> None:
        config, history = self.checkpoint.config, self.checkpoint.history
        points = list(zip(*(history[column][self.points :] for column in ("step", "objective", "elbo")), strict=True))
        for step, objective, elbo in points:
            last = {"first_step": int(step) - 1, "steps": 1}  # the step done last
            (rate,) = learning_rates(config.optimizer, total_steps=config.training.steps, **last)
            (weight,) = kl_weights(config.training, **last)
            values = {"objective": objective, "elbo": elbo, "learning_rate": float(rate), "kl_weight": float(weight)}
            events.tell("point", step=int(step), **values)
        validations = list(zip(*(history[column][self.validations :] for column in ("valid_step", "valid_elbo")), strict=True))
        for step, elbo in validations:
            events.tell("validation", step=int(step), elbo=elbo)
        self.points += len(points)
        self.validations += len(validations)


def images(session: Scorer, checkpoint: Checkpoint, *, dataset: Dataset) -> None:
    """Tell samples and reconstructions by the judged parameters: the same latents, images and noise in every call."""
    config = checkpoint.config
    shown = dataset.valid[:IMAGES]
    draws = generator(0, PREVIEWS).standard_normal((2, IMAGES, config.model.latent_size)).astype(config.dtype)
    latents = {"samples": session.prior(draws[0]), "reconstructions": session.encode(shown, draws[1:, : len(shown)])[0]}
    shape = (-1, *config.model.image_shape)
    greys = {name: np.round(255 * session.decode(z)).astype(np.uint8).reshape(shape) for name, z in latents.items()}
    events.tell("images", step=int(checkpoint.state["step"]), **{name: packed(grey) for name, grey in greys.items()})
