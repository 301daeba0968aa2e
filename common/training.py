"""The loop: chunks of steps, the curve, validation, selection, checkpoints. The same for every backend."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common import estimators
from common.checkpoints import CLOCK, PENDING, POINTS, ROWS, Checkpoint
from common.clock import timed
from common.config import Config
from common.data import Dataset, minibatches
from common.errors import UserError
from common.noise import VALIDATION, seed_for, training_noise
from common.parameters import judged, noise_size
from common.protocol import Scorer, Session
from common.schedules import kl_weights, learning_rates

VALIDATION_BATCH = 1000  # images a call; changes results by rounding alone


class DivergedError(UserError):
    """A quantity of the training isn't a finite number any more."""


def nothing(*_: Any) -> None:
    """For a training that saves or reports nothing."""


def train(
    session: Session,
    checkpoint: Checkpoint,
    *,
    dataset: Dataset,
    save: Callable[[Checkpoint], None] = nothing,
    report: Callable[[int, float], None] = nothing,
    between: Callable[[], None] = nothing,
    until: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from the checkpoint's step to the last step, and update the checkpoint.

    A chunk ends at each multiple of `chunk`, `log_interval` and `validation_interval`; no result depends on a chunk's length.
    After each chunk, outside the clock: `report(steps of the chunk, their mean ELBO)`, then `between()`. After each validation:
    `save(checkpoint)`. `until`: stop at this step of the same schedules, with a validation and a checkpoint. `stop()` is asked
    before each chunk: where it says so, save a checkpoint of the step reached and return; a run resumed from this checkpoint is
    bit for bit the uninterrupted one.

    Raises `DivergedError` after the chunk or the validation in which a number isn't finite; no checkpoint has such a number.
    """
    training = checkpoint.config.training
    history = checkpoint.history
    for column in itertools.chain(*ROWS):
        history.setdefault(column, [])
    (train_images, valid_images), seconds = timed(
        lambda: (session.place(dataset.train), session.place(dataset.valid)), synchronize=session.synchronize
    )
    history["placement_seconds"].append(seconds)
    step = saved = int(checkpoint.state["step"])
    compiled: set[int] = set()
    objectives, elbos = (history[column] for column in PENDING)

    def add_point() -> None:
        for column, value in zip(POINTS, (step, float(np.mean(objectives)), float(np.mean(elbos))), strict=True):
            history[column].append(value)
        objectives.clear()
        elbos.clear()

    end = training.steps if until is None else min(until, training.steps)
    while step < end and not stop():
        intervals = (training.chunk, training.log_interval, training.validation_interval)
        steps = min(*((step // n + 1) * n for n in intervals), end) - step
        arguments = chunk(checkpoint.config, images=len(dataset.train), first_step=step, steps=steps)
        work = functools.partial(session.train, train_images, **arguments)
        (objective, elbo), seconds = timed(work, synchronize=session.synchronize)
        for column, value in zip(CLOCK, (steps, seconds, steps not in compiled), strict=True):
            history[column].append(float(value))
        compiled.add(steps)
        refuse_divergence({"objective": objective, "ELBO": elbo}, steps=range(step + 1, step + steps + 1), saved=saved)
        step += steps
        objectives.extend(objective.tolist())
        elbos.extend(elbo.tolist())
        last = step == end
        if last or step % training.log_interval == 0:
            add_point()
        report(steps, float(elbo.mean()))
        between()
        if last or step % training.validation_interval == 0:
            valid_elbo = validate(session, valid_images, images=len(dataset.valid), seed=training.seed)
            state = session.state()
            refuse_divergence({"validation ELBO": np.array([valid_elbo]), **state}, steps=range(step, step + 1), saved=saved)
            history["valid_step"].append(step)
            history["valid_elbo"].append(valid_elbo)
            checkpoint.state = state
            if valid_elbo > checkpoint.best_valid_elbo:
                checkpoint.best_step, checkpoint.best_valid_elbo = step, valid_elbo
                checkpoint.best = judged(checkpoint.state)
            if objectives:  # each validation has a point of the curve beside it
                add_point()
            save(checkpoint)
            saved = step
    if saved < step:
        state = session.state()
        refuse_divergence(state, steps=range(step, step + 1), saved=saved)
        checkpoint.state = state
        save(checkpoint)


def refuse_divergence(quantities: Mapping[str, np.ndarray], *, steps: range, saved: int) -> None:
    """Raises `DivergedError` for the first number that isn't finite: of several steps' numbers, [steps], the earliest step's.

    `saved`: the step of the last checkpoint.
    """
    bad = {name: values for name, values in quantities.items() if not np.isfinite(values).all()}
    if not bad:
        return
    first = {name: int(np.flatnonzero(~np.isfinite(values))[0]) if len(steps) > 1 else 0 for name, values in bad.items()}
    name = min(bad, key=lambda name: first[name])
    number = bad[name][~np.isfinite(bad[name])].flat[0]
    kept = f"the checkpoint of step {saved:,} stays" if saved else "no step was saved"
    raise DivergedError(
        f"The run diverged: {name} is {number} at step {steps[first[name]]:,}; {kept}. Try a lower --learning-rate, or --clip."
    )


def chunk(config: Config, *, images: int, first_step: int, steps: int) -> dict[str, Any]:
    """The arguments of `Session.train` for these steps of a run, on this many training images."""
    training, window = config.training, {"first_step": first_step, "steps": steps}
    noise = None
    if training.noise == "shared":
        shape = (training.objective_samples, training.batch_size, noise_size(config.model))
        noise = training_noise(seed=training.seed, shape=shape, dtype=config.dtype, **window)
    return {
        "indices": minibatches(images=images, batch_size=training.batch_size, seed=training.seed, **window),
        "first_step": first_step,
        "learning_rates": learning_rates(config.optimizer, total_steps=training.steps, **window),
        "kl_weights": kl_weights(training, **window),
        "seed": training.seed,
        "noise": noise,
    }


def validate(session: Scorer, handle: Any, *, images: int, seed: int) -> float:
    """The ELBO of the whole validation set, one sample an image, with the same noise at each validation."""
    return estimators.estimate(
        session,
        handle,
        images=np.arange(images, dtype=np.int32),
        samples=1,
        seed=seed_for(seed, VALIDATION),
        image_batch=VALIDATION_BATCH,
        sample_block=1,
        report=lambda images: None,
    ).elbo
