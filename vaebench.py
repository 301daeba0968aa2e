"""Train, evaluate and sample models from Python, in any backend, in the caller's own process.

    model = vaebench.train("binarized-digits", backend="jax", variational="flow", steps=1000)
    model.evaluate().log_px                      # nats per image
    model.sample(16)                             # p(x = 1|z) of 16 draws from the prior, [16, rows, columns]

The loop, the settings, the data and the estimators are those of `python -m benchmarks`, and so are the numbers. Images are arrays
of 0 and 1, [images, rows, columns] or [images, pixels]. Every refusal is a `UserError` of one sentence. See docs/library.md.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from benchmarks.harness import runs
from common import checkpoints, noise, protocol, training
from common.checkpoints import Checkpoint
from common.config import Config, check
from common.data import Dataset
from common.errors import UserError
from common.estimators import Estimates
from common.version import VERSION

__all__ = ["Dataset", "Estimates", "Model", "UserError", "load", "train"]
__version__ = VERSION


class Model:
    """A trained model in a backend. `train` and `load` make it."""

    def __init__(self, checkpoint: Checkpoint, *, backend: str, dataset: Dataset | None, data: str, data_dir: Path | None):
        self.checkpoint = checkpoint
        self.backend = backend
        self._scorer = protocol.load(backend).score(self.config, checkpoint.selected())
        self._dataset, self._data, self._data_dir = dataset, data, data_dir

    @property
    def config(self) -> Config:
        """Every setting of the run."""
        return self.checkpoint.config

    @property
    def curve(self) -> dict[str, np.ndarray]:
        """The training curve: objective [points] and elbo [points] at step [points]; valid_elbo [validations] at valid_step."""
        return {column: np.array(self.checkpoint.history[column]) for column in training.CURVE}

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set of training: train, valid, test [images, pixels]. Raises `UserError` where its file has moved."""
        return self._dataset or runs.dataset_of(self.checkpoint, data=self._data, data_dir=self._data_dir)

    def evaluate(self, images: np.ndarray | None = None, *, samples: int | None = None) -> Estimates:
        """ELBO and log p(x), each with its standard error over images, in nats per image; of the test images by default.

        `samples` is K, the importance samples an image; by default as in the run, 1,000 where no setting changed it.
        """
        config = self.config if samples is None else self.config.replace(samples=samples)
        if images is None:
            dataset = self.dataset
        else:
            given = self._flat(images)
            dataset = Dataset(self._data, "", train=given, valid=given, test=given, image_shape=config.model.image_shape)
            config = config.replace(images=0)
        check(config, train_images=len(dataset.train), test_images=len(dataset.test))
        return runs.evaluate(self._scorer, config=config, dataset=dataset, progress=_Silent(""))

    def sample(self, n: int, *, seed: int = 0) -> np.ndarray:
        """p(x = 1|z) for n draws z ~ N(0, I), [n, rows, columns]. The draws depend on the seed alone."""
        draws = noise.generator(seed, noise.GALLERY).standard_normal((n, self.config.model.latent_size))
        return self.decode(draws)

    def encode(self, images: np.ndarray, *, samples: int = 1, seed: int = 0) -> np.ndarray:
        """z ~ q(z|x), [samples, images, latent], through the whole posterior, the flow's blocks too."""
        given = self._flat(images)
        shape = (samples, len(given), self.config.model.latent_size)
        draws = noise.generator(seed, noise.POSTERIOR).standard_normal(shape)
        return self._scorer.encode(given, draws.astype(self.config.dtype))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """p(x = 1|z), [images, rows, columns], for latents [images, latent]."""
        probabilities = self._scorer.decode(np.asarray(latents, self.config.dtype))
        return probabilities.reshape(-1, *self.config.model.image_shape)

    def reconstruct(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """p(x = 1|z), [images, rows, columns], for one z ~ q(z|x) of each image."""
        return self.decode(self.encode(images, seed=seed)[0])

    def save(self, path: str | Path) -> None:
        """Write a checkpoint: `load`, and the commands evaluate, export, show and run --from, read it, in any backend."""
        checkpoints.save(self.checkpoint, Path(path))
