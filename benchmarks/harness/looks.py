"""What a trained model shows: test images, their reconstructions, samples, and how much each latent dimension carries.

A model is looked at in a fresh process, in one backend; arrays come back as plain JSON.

An image's reconstruction is p(x = 1|z) for one draw z ~ q(z|x) of the whole posterior, a flow's blocks included. A sample is
p(x = 1|z) for z ~ p(z). Both are stored as grey values, round(255 p). Test images are drawn at random without replacement,
since a data set's file can be sorted by class. Each draw is a function of the seed and its stream in common/noise.py.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import cli, processes, runs, scoring
from benchmarks.harness.jobs import Job
from benchmarks.harness.packing import packed, unpacked
from benchmarks.harness.progress import Progress
from common import checkpoints, image_files, noise, protocol, training
from common.checkpoints import Checkpoint
from common.config import Config
from common.data import Dataset, is_file, whole_name
from common.errors import UserError

DRAWS = 100  # posterior draws an image behind `kl`, `active` and `means`
IMAGES = 200  # test images behind `kl` and `active`
MEANS = 2_000  # test images behind all three where z has two dimensions
ENCODED = 50  # images a call
ACTIVE = 0.01  # the least Var_x E[z_d|x] of an active dimension (Burda et al. 2016)
MANIFOLD = 20  # points along each axis
FRAMES = 40  # of a training on the spot, about
STRIDE = 10  # steps: frames of a training on the spot lie at multiples, so that one length of chunk is compiled


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """One model at one step. Images are uint8 grey values 255 p(x = 1|z), [n, rows, columns].

    kl [latent]: nats, the mean over test images of the KL of the Gaussian that has q(z_d|x)'s mean and variance from N(0, 1).
    active: the number of dimensions with Var_x E[z_d|x] > ACTIVE.
    With two latent dimensions only: manifold, decoded at the normal distribution's quantiles, z_1 to the right and z_2 upward;
    means [images, 2], E[z|x] of test images; labels [images], their classes, where the data file has `test_labels`.
    """

    backend: str
    variational: str
    preset: str
    dataset: str
    step: int
    elbo: float | None  # nats, of the validation set at this step
    image_shape: tuple[int, int]
    originals: np.ndarray
    reconstructions: np.ndarray
    samples: np.ndarray
    kl: np.ndarray
    active: int
    manifold: np.ndarray | None = None
    means: np.ndarray | None = None
    labels: np.ndarray | None = None
    binarize: str | None = None  # how the data set's grey images became binary

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in (field.name for field in dataclasses.fields(self))}
        return {name: packed(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Look:
        arrays = {name: unpacked(value) for name, value in values.items() if isinstance(value, dict)}
        return cls(**values | arrays | {"image_shape": tuple(values["image_shape"])})


# --- the parent's side ---


def of(checkpoint: Path, **settings: Any) -> Look:
    """The look of a checkpoint's selected parameters; `settings` and errors are those of `_asked`."""
    (look,) = of_each([checkpoint], **settings)
    return look


def of_each(paths: list[Path], **settings: Any) -> list[Look]:
    """The look of each of a run's checkpoints, in one process; `settings` and errors are those of `_asked`."""
    return _asked(f"{__name__}:_of_each", paths, **settings)


def of_training(path: Path, **settings: Any) -> list[Look]:
    """Looks of a training on the spot, at `frame_steps`, by the config of the checkpoint `path`; nothing is written.

    The training is that of the run, from step 0. `settings` and errors are those of `_asked`.
    """
    return _asked(f"{__name__}:_of_training", [path], **settings)


def _asked(
    target: str,
    paths: list[Path],
    *,
    images: int,
    samples: int,
    seed: int,
    data: Sequence[str],
    data_dir: Path | None,
    backend: str | None = None,
) -> list[Look]:
    """The looks of `target` in a process of `backend`, or of the backend that trained the run where None.

    images: test images, at most as many as there are; samples: draws of the prior. `data`: the places of data sets, where the
    file of training has moved.

    Raises `UserError` for a file that is no checkpoint, or whose numbers aren't finite, and where the process fails.
    """
    for path in paths:
        first = checkpoint = checkpoints.load(path)  # an unusable file is refused before a process starts
        checkpoints.refuse_diverged(checkpoint, path=path)
    question = {
        "paths": [str(path.absolute()) for path in paths],
        "backend": backend or cli.backend_of(first, path=paths[0]),
        "data": [whole_name(place) for place in data],  # the process has another current folder
        "data_dir": str(data_dir.absolute()) if data_dir else None,
        "images": images,
        "samples": samples,
        "seed": seed,
    }
    _dataset(question, first, path=paths[0])  # so are missing data
    return [Look.from_json(found) for found in processes.ask(target, question, title=f"looking at {paths[-1].name}")]


# --- in the fresh process ---


def _of_each(question: dict[str, Any]) -> list[dict[str, Any]]:
    backend = protocol.load(question["backend"])
    found = []
    for path in map(Path, question["paths"]):
        checkpoint = checkpoints.load(path)
        scorer = backend.score(checkpoint.config.on("cpu"), checkpoint.selected())
        dataset = _dataset(question, checkpoint, path=path)
        found.append(
            take(scorer, checkpoint, dataset=dataset, step=checkpoint.selected_step(), **_settings(question)).as_json()
        )
    return found


def _of_training(question: dict[str, Any]) -> list[dict[str, Any]]:
    (path,) = map(Path, question["paths"])
    checkpoint = checkpoints.load(path)
    dataset = _dataset(question, checkpoint, path=path)
    frames = train(checkpoint, backend=question["backend"], dataset=dataset, **_settings(question))
    return [look.as_json() for look in frames]


def _settings(question: dict[str, Any]) -> dict[str, int]:
    return {name: question[name] for name in ("images", "samples", "seed")}


def _dataset(question: dict[str, Any], checkpoint: Checkpoint, *, path: Path) -> Dataset:
    """The checkpoint's data set. Raises `UserError` where the question names other data."""
    folder = question["data_dir"]
    return scoring.dataset_of(checkpoint, path=path, places=question["data"], data_dir=Path(folder) if folder else None)


def train(checkpoint: Checkpoint, *, backend: str, dataset: Dataset, images: int, samples: int, seed: int) -> Iterator[Look]:
    """Train the checkpoint's config from step 0 and yield a look at each of `frame_steps`, with the parameters of that step.

    Chunks and intervals of validation differ from the run's: neither changes a parameter by a bit.
    """
    steps = checkpoint.config.training.steps
    config = checkpoint.config.replace(chunk=STRIDE, log_interval=steps, validation_interval=steps)
    job = Job(
        backend=backend, preset=checkpoint.preset, data=dataset.name, data_dir=None, config=config, results="", resume=False
    )
    present, session = runs.begin(job, backend=protocol.load(backend), dataset=dataset)
    valid = session.place(dataset.valid)
    first = training.validate(session, valid, images=len(dataset.valid), seed=config.training.seed)
    present.history = {"valid_step": [0], "valid_elbo": [first]}
    progress = Progress(f"{backend} {config.model.variational}")

    with progress.phase("train", total=steps, unit="steps", rows=config.training.batch_size) as advance:
        for step in frame_steps(steps):
            if step:
                training.train(session, present, dataset=dataset, report=advance, until=step)
            yield take(session, present, dataset=dataset, step=step, images=images, samples=samples, seed=seed)


def frame_steps(steps: int) -> list[int]:
    """Step 0, about FRAMES multiples of STRIDE whose logarithms have equal distances, and the last step."""
    spaced = np.geomspace(min(STRIDE, steps), steps, FRAMES - 1)
    return sorted({0, steps, *(int(step) for step in np.round(spaced / STRIDE) * STRIDE if step < steps)})


def take(
    scorer: protocol.Scorer, checkpoint: Checkpoint, *, dataset: Dataset, step: int, images: int, samples: int, seed: int
) -> Look:
    """The look of the scorer's parameters, those of this step of the checkpoint's run.

    Raises `UserError` where a number isn't finite.
    """
    config, (rows, columns) = checkpoint.config, checkpoint.config.model.image_shape
    latent_size = config.model.latent_size

    def decoded(latents: np.ndarray) -> np.ndarray:
        return grey(scorer.decode(latents.astype(config.dtype))).reshape(-1, rows, columns)

    order = noise.generator(seed, noise.PICTURED).permutation(len(dataset.test))
    originals = dataset.test[order[:images]]
    draw = noise.generator(seed, noise.RECONSTRUCTION).standard_normal((1, len(originals), latent_size))
    measured = order[: MEANS if latent_size == 2 else IMAGES]
    z = posterior(scorer, dataset.test[measured], config=config, seed=seed)
    kl = kl_by_dimension(z)
    at_step = dict(zip(checkpoint.history.get("valid_step", []), checkpoint.history.get("valid_elbo", []), strict=True))
    look = Look(
        backend=checkpoint.backend,
        variational=config.model.variational,
        preset=checkpoint.preset,
        dataset=checkpoint.dataset,
        binarize=checkpoint.binarize,
        step=step,
        elbo=at_step.get(step),
        image_shape=(rows, columns),
        originals=(255 * originals).reshape(-1, rows, columns),
        reconstructions=decoded(scorer.encode(originals, draw.astype(config.dtype))[0]),
        samples=decoded(scorer.prior(base(config, samples=samples, seed=seed).astype(config.dtype))),
        kl=kl,
        active=active(z),
    )
    if not np.isfinite(kl).all():
        raise UserError("The model has diverged: its latents aren't finite numbers, and there is nothing to show.")
    if latent_size != 2:
        return look
    labels = labels_of(dataset)
    return dataclasses.replace(
        look,
        manifold=decoded(scorer.prior(manifold().astype(config.dtype))),
        means=z.mean(axis=0).astype(np.float32),
        labels=None if labels is None else labels[measured],
    )


def grey(probabilities: np.ndarray) -> np.ndarray:
    """round(255 p), uint8. Raises `UserError` where a probability isn't a number."""
    if not np.isfinite(probabilities).all():
        raise UserError("The model has diverged: its probabilities aren't finite numbers, and there is nothing to show.")
    return np.round(255 * np.asarray(probabilities)).astype(np.uint8)


def base(config: Config, *, samples: int, seed: int) -> np.ndarray:
    """Draws of N(0, I), float64 [samples, latent], the same for every model of this latent size; a prior makes z of them."""
    return noise.generator(seed, noise.GALLERY).standard_normal((samples, config.model.latent_size))


def manifold() -> np.ndarray:
    """The grid of normal quantiles at (i + ½) / MANIFOLD, [MANIFOLD², 2], by rows from the top: z_1 rises right, z_2 up.

    A flow prior makes its z of them.
    """
    points = [statistics.NormalDist().inv_cdf((i + 0.5) / MANIFOLD) for i in range(MANIFOLD)]
    return np.array([(right, up) for up in reversed(points) for right in points])


def posterior(scorer: protocol.Scorer, images: np.ndarray, *, config: Config, seed: int) -> np.ndarray:
    """DRAWS draws of q(z|x) for each image, float64 [DRAWS, images, latent]."""
    draws = noise.generator(seed, noise.POSTERIOR).standard_normal((DRAWS, len(images), config.model.latent_size))
    parts = [slice(first, first + ENCODED) for first in range(0, len(images), ENCODED)]
    z = [scorer.encode(images[part], draws[:, part].astype(config.dtype)) for part in parts]
    return np.concatenate(z, axis=1).astype(np.float64)


def kl_by_dimension(z: np.ndarray) -> np.ndarray:
    """½ (μ² + σ² − 1 − log σ²) of each dimension, the mean over images, nats, from draws [draws, images, latent] → [latent].

    μ and σ² are a posterior's mean and variance in one dimension, estimated from n draws. The square of the mean of n draws is
    σ²/n too large on average, and the logarithm of their variance about 1/(n − 1) too small: both are corrected, since summed
    over 128 dimensions they would be more than a nat. What is left below 0 is sampling error, and is 0 in the result.
    """
    mean, variance, n = z.mean(axis=0), z.var(axis=0, ddof=1), len(z)
    kl = (mean**2 - variance / n + variance - 1 - np.log(variance) - 1 / (n - 1)) / 2
    result: np.ndarray = np.maximum(kl.mean(axis=0), 0)
    return result


def active(z: np.ndarray) -> int:
    """The number of dimensions with Var_x E[z_d|x] > ACTIVE, from draws [draws, images, latent].

    The covariance over images of the means of either half of the draws: unlike the variance of one mean, it has no sampling
    error of the mean in it, which from 100 draws is as large as ACTIVE.
    """
    first, second = (half.mean(axis=0) for half in np.array_split(z, 2))
    covariance = ((first - first.mean(axis=0)) * (second - second.mean(axis=0))).mean(axis=0)
    return int((covariance > ACTIVE).sum())


def labels_of(dataset: Dataset) -> np.ndarray | None:
    """`image_files.labels` of a data set that is a file."""
    return image_files.labels(Path(dataset.name), images=len(dataset.test)) if is_file(dataset.name) else None
