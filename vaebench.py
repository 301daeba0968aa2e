"""vaebench from Python: train, evaluate, sample, encode and reconstruct in any backend, in the caller's own process.

    model = vaebench.train("binarized-digits", backend="jax", variational="flow", steps=1000)
    model.evaluate().log_px    # nats per image
    model.sample(16)           # p(x = 1|z) of 16 draws from the prior, [16, rows, columns]

Settings, data, training loop and estimators are those of `python -m benchmarks`, and so are the numbers. Images are arrays of 0
and 1, [images, rows, columns] or [images, pixels]. Bad input raises `UserError`, of one sentence. See docs/library.md.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import cli, presets, runs, scoring
from benchmarks.harness.jobs import Job
from benchmarks.harness.progress import Advance, Progress
from common import checkpoints, estimators, noise, protocol, training
from common import data as datasets
from common.binarize import Binarize, is_binary
from common.checkpoints import Checkpoint
from common.config import Config, Device, check
from common.data import Dataset
from common.errors import UserError
from common.estimators import Estimates
from common.version import VERSION

__all__ = ["Config", "Dataset", "Estimates", "Model", "UserError", "load", "train"]
__version__ = VERSION


class Model:
    """A trained model in one backend, as `train` and `load` return it. An equal seed gives equal draws in every backend."""

    def __init__(self, checkpoint: Checkpoint, *, backend: str, config: Config, find: Callable[[], Dataset]):
        self.checkpoint = checkpoint
        self.backend = backend
        self.config = config
        self._find = find

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data of training: `train`, `valid` and `test`, [images, pixels]. Raises `UserError` where its file has moved."""
        return self._find()

    @property
    def curve(self) -> dict[str, np.ndarray]:
        """The training curve: objective and elbo at step, [points] each; valid_elbo at valid_step, [validations] each."""
        return {column: np.array(self.checkpoint.history[column]) for column in checkpoints.CURVE}

    def evaluate(self, images: np.ndarray | None = None, *, samples: int | None = None, progress: bool = True) -> Estimates:
        """ELBO and log p(x), means over images ± their standard errors, in nats per image.

        images: those of the test set by default. samples: K, the importance samples an image; as in the run by default. Warns
        where the estimates contradict what they are (`estimators.warning`).
        """
        config = self.config
        if samples is not None:
            _whole("samples", samples, least=1)
            config = config.replace(samples=int(samples))
        if images is None:
            dataset = self.dataset
        else:
            given = self._flat(images)
            shape = self.config.model.image_shape
            dataset = Dataset(name="", sha256="", train=given, valid=given, test=given, image_shape=shape)
            config = config.replace(images=0)
        check(config, train_images=config.training.batch_size, test_images=len(dataset.test))
        shown = _progress(self.backend, config, shown=progress)
        backend = protocol.load(self.backend)
        of_images = scoring.scores(backend, self.checkpoint.selected(), config=config, dataset=dataset, progress=shown)
        estimators.refuse_divergence(of_images)
        if warning := estimators.warning(of_images, of=len(dataset.test), highest=dataset.highest_log_px):
            warnings.warn(warning, stacklevel=2)
        return estimators.summary(of_images)

    def sample(self, n: int, *, seed: int = 0) -> np.ndarray:
        """p(x = 1|z), [n, rows, columns], for n draws z ~ p(z)."""
        _whole("n", n, least=1)
        _whole("seed", seed, least=0)
        draws = noise.generator(seed, noise.GALLERY).standard_normal((n, self.config.model.latent_size))
        return self.decode(self._scorer.prior(draws.astype(self.config.dtype)))

    def reconstruct(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """p(x = 1|z), [images, rows, columns], for one z ~ q(z|x) an image."""
        return self.decode(self.encode(images, seed=seed)[0])

    def encode(self, images: np.ndarray, *, samples: int = 1, seed: int = 0) -> np.ndarray:
        """z ~ q(z|x), [samples, images, latent], through the whole posterior, a flow's blocks too."""
        _whole("samples", samples, least=1)
        _whole("seed", seed, least=0)
        given = self._flat(images)
        draws = noise.generator(seed, noise.RECONSTRUCTION).standard_normal(
            (samples, len(given), self.config.model.latent_size)
        )
        return self._scorer.encode(given, draws.astype(self.config.dtype))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """p(x = 1|z), [images, rows, columns], for latents z [images, latent]."""
        given, latent_size = np.asarray(latents, self.config.dtype), self.config.model.latent_size
        if given.ndim != 2 or given.shape[1] != latent_size or len(given) == 0:
            raise UserError(f"The latents have the shape {list(given.shape)}; this model's have [images, {latent_size}].")
        probabilities = self._scorer.decode(given)
        return probabilities.reshape(-1, *self.config.model.image_shape)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, which `load` and the commands read, in any backend; a file of that name is replaced."""
        checkpoints.save(self.checkpoint, Path(path))

    @functools.cached_property
    def _scorer(self) -> protocol.Scorer:
        return protocol.load(self.backend).score(self.config, self.checkpoint.selected())

    def _flat(self, images: Any) -> np.ndarray:
        """uint8 [images, pixels]. Raises `UserError` for images of another shape, and values other than 0 and 1."""
        given, (rows, columns) = np.asarray(images), self.config.model.image_shape
        if given.shape[1:] not in ((rows, columns), (rows * columns,)) or len(given) == 0:
            fit = f"[images, {rows}, {columns}] or [images, {rows * columns}]"
            raise UserError(f"The images have the shape {list(given.shape)}; this model's have {fit}.")
        if not is_binary(given):
            raise UserError("The images have values other than 0 and 1; make them binary as the training images were.")
        return given.reshape(len(given), -1).astype(np.uint8)


def train(
    data: str | Path | np.ndarray | Mapping[str, Any] = "binarized-digits",
    *,
    backend: str,
    preset: str = "quick",
    data_dir: str | Path | None = None,
    binarize: Binarize | None = None,
    progress: bool = True,
    **settings: Any,
) -> Model:
    """Train a model by the preset's settings, some of them changed: `train(images, backend="jax", latent_size=32)`.

    data: a data set's name; the path of an .h5, .npz or .npy file; arrays by the names "train", "valid" and "test"; or one
    array, of which a tenth of the images, always the same, is kept for validation and another tenth for the test.
    data_dir, binarize, settings: the flags of `python -m benchmarks run --help-all`, with underscores.

    Raises `UserError` for an unknown name, a setting that makes no sense, data that can't be used, and a missing framework.
    """
    if "image_shape" in settings:
        raise UserError("image_shape is no setting: the data has it; give the images as [images, rows, columns].")
    if isinstance(data, str | Path):
        dataset = datasets.load(str(data), data_dir=Path(data_dir) if data_dir else None, binarize=binarize)
    else:
        dataset = datasets.of_arrays(data, binarize=binarize)
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    config = presets.preset(preset).replace(**plain, image_shape=dataset.image_shape)
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    job = Job(backend=backend, preset=preset, data=dataset.name, data_dir=None, config=config, results="", resume=False)
    checkpoint, session = runs.begin(job, backend=protocol.load(backend), dataset=dataset)
    shown = _progress(backend, config, shown=progress)
    with shown.phase("train", total=config.training.steps, unit="steps", rows=config.training.batch_size) as advance:
        training.train(session, checkpoint, dataset=dataset, report=advance)
    return Model(checkpoint, backend=backend, config=config, find=lambda: dataset)


def load(
    path: str | Path,
    *,
    backend: str | None = None,
    device: Device = "cpu",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Model:
    """The model of a checkpoint that `Model.save` or `python -m benchmarks run` wrote, in any backend; by default its own.

    data, data_dir: the place of its data set, where that has moved; read when `Model.dataset` or the test images are asked for.
    Raises `UserError` for a file that is no checkpoint, and a missing framework.
    """
    checkpoint = checkpoints.load(Path(path))
    name = backend or cli.backend_of(checkpoint, path=Path(path))
    protocol.load(name)
    places, folder = [str(data)] if data else [], Path(data_dir) if data_dir else None
    find = functools.partial(scoring.dataset_of, checkpoint, path=Path(path), places=places, data_dir=folder)
    return Model(checkpoint, backend=name, config=checkpoint.config.on(device), find=find)


def _whole(name: str, value: Any, *, least: int) -> None:
    """Raises `UserError` for a value that isn't a whole number, or is below the least."""
    if not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name} is {value}; it must be a whole number, {least} or more.")


def _progress(backend: str, config: Config, *, shown: bool) -> Progress:
    return (Progress if shown else _Silent)(f"{backend} {config.model.variational}")


class _Silent(Progress):
    @contextlib.contextmanager
    def phase(self, name: str, *, total: int, unit: str, rows: int = 1) -> Iterator[Advance]:
        yield lambda units, elbo: None
