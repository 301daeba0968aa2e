"""ELBO and log p(x) of a model's parameters, and the data set of a checkpoint to score them on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.progress import Progress
from common import data, estimators, protocol
from common.checkpoints import Checkpoint
from common.config import Config
from common.data import Dataset
from common.errors import UserError
from common.noise import TEST, seed_for
from common.parameters import State


def evaluate(backend: protocol.Backend, selected: State, **arguments: Any) -> estimators.Estimates:
    """ELBO and log p(x) of the `selected` parameters on the config's test images; the arguments are those of `scores`.

    Raises `UserError` where a number isn't finite.
    """
    of_images = scores(backend, selected, **arguments)
    estimators.refuse_divergence(of_images)
    return estimators.summary(of_images)


def scores(
    backend: protocol.Backend,
    selected: State,
    *,
    config: Config,
    dataset: Dataset,
    progress: Progress,
    split: Literal["train", "test"] = "test",
) -> estimators.PerImage:
    """As `evaluate`, for each image of the split."""
    scorer, of_split = backend.score(config, selected), getattr(dataset, split)
    images = data.subset(images=config.evaluation.images, of=len(of_split))
    with progress.phase(split, total=len(images), unit="images") as advance:
        return estimators.per_image(
            scorer,
            scorer.place(of_split),
            images=images,
            samples=config.evaluation.samples,
            seed=seed_for(config.training.seed, TEST),
            image_batch=config.evaluation.image_batch,
            sample_block=config.evaluation.sample_block,
            report=lambda done: advance(done, None),
        )


def dataset_of(checkpoint: Checkpoint, *, path: Path, places: Sequence[str], data_dir: Path | None) -> Dataset:
    """The data set of a checkpoint's run, known by its SHA-256: at one of `places`, or where it was if there are none.

    Raises `UserError` where none of them holds it.
    """
    for place in (looked_at := places or [checkpoint.dataset]):
        dataset = data.load(place, data_dir=data_dir, binarize=checkpoint.binarize)
        if dataset.sha256 == checkpoint.sha256:
            return dataset
    raise UserError(f"{path} was trained on other data than {' or '.join(looked_at)} holds; give its images as --data.")
