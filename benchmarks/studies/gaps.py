"""How far is a model's log p(x) from what is reported, and which of its halves costs how much?

A process measures one checkpoint, on the same seeded test images for all: the bound at each K, log p(x) by annealed importance
sampling, and bounds of that estimate's own error from both sides on images that the model draws; the ELBO of the best q of the
family for each image (Cremer et al. 2018). Train − test is measured on more images, with fewer samples
of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from benchmarks.harness import annealed, environment, reports, scoring
from benchmarks.harness.cli import at_least
from benchmarks.harness.progress import Progress
from benchmarks.harness.reports import Report
from benchmarks.outputs import figures
from benchmarks.outputs.table import Part, Table
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import annealing, checkpoints, data, estimators, local_posteriors, protocol
from common.annealing import Draws
from common.checkpoints import Checkpoint
from common.config import Annealing, Config
from common.data import Dataset
from common.errors import UserError
from common.noise import ANNEALING, ANNEALING_DOWN, ANNEALING_SIZES, SIMULATED, TEST, generator, seed_for
from common.protocol import Scorer

REPORTED = 1_000  # the K of the published tables
IMAGES = 100
ELBO_SAMPLES = 1_000  # of the ELBOs that the two halves' gaps are differences of
DEFAULTS = Annealing()
ACROSS = ("commit",)


@dataclass(kw_only=True)
class Arguments(skeleton.DataArguments):
    checkpoint: Annotated[tuple[Path, ...], tyro.conf.arg(help="A row each.")] = ()
    images: Annotated[
        int | None, tyro.conf.arg(help=f"Test images, the same for every model; {IMAGES} by default, or all of fewer.")
    ] = None
    samples: Annotated[int, tyro.conf.arg(help="The largest K.")] = 5_000
    chains: Annotated[int, tyro.conf.arg(help="Of annealing, an image.")] = DEFAULTS.chains
    distributions: Annotated[
        tuple[int, ...], tyro.conf.arg(help="Of annealing; one number for all checkpoints, or one for each.")
    ] = (DEFAULTS.distributions,)
    leapfrogs: Annotated[int, tyro.conf.arg(help="Of annealing, a move.")] = DEFAULTS.leapfrogs
    steps: Annotated[int, tyro.conf.arg(help="Of the optimisation of an image's own q.")] = 500
    simulated: Annotated[int, tyro.conf.arg(help="Images that the model draws.")] = 20
    split_images: Annotated[int, tyro.conf.arg(help="Of each split, for train − test; at most the smaller split.")] = 10_000
    split_samples: Annotated[int, tyro.conf.arg(help="K for train − test.")] = 100


def check(asked: Arguments) -> None:
    if not asked.checkpoint:
        raise UserError("Which checkpoints? Give --checkpoint FILE …, as `python -m benchmarks run` writes them.")
    if len(asked.distributions) not in (1, len(asked.checkpoint)):
        raise UserError(f"--distributions has {len(asked.distributions)} numbers; give one, or one for each checkpoint.")
    if (fewest := min(asked.distributions)) < 1:
        raise UserError(f"--distributions is {fewest}; it must be at least 1.")
    at_least(asked, samples=2, chains=2, leapfrogs=1, steps=1, simulated=2, split_images=2, split_samples=1)
    if asked.images is not None:
        at_least(asked, images=2)


def plan(asked: Arguments) -> dict[str, Point]:
    points = {}
    numbers = {name: getattr(asked, name) for name in ("samples", "steps", "simulated", "split_samples")}
    numbers |= {name: getattr(asked, name) for name in ("chains", "leapfrogs")}
    of_each = asked.distributions * (len(asked.checkpoint) // len(asked.distributions))
    for i, (path, distributions) in enumerate(zip(asked.checkpoint, of_each, strict=True)):
        checkpoint = checkpoints.load(path)  # refuses a bad file before anything is measured
        dataset = scoring.dataset_of(checkpoint, path=path, places=(asked.data,), data_dir=asked.data_dir)
        where = {"data": asked.data, "data_dir": str(asked.data_dir) if asked.data_dir else None, "results": str(asked.results)}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if asked.images is not None and asked.images > len(dataset.test):
            raise UserError(f"--images is {asked.images}, more than {dataset.name} has.")
        both = {"images": min(asked.images or IMAGES, len(dataset.test))}
        both["split_images"] = min(asked.split_images, len(dataset.train), len(dataset.test))
        if min(both.values()) < 2:
            raise UserError(f"{dataset.name} has one test image; the errors over images need two or more.")
        of_checkpoint = {"checkpoint": str(path.resolve()), "sha256": digest, "distributions": distributions}
        points[f"{i}_{path.stem}"] = {**of_checkpoint, **numbers, **both, **where}
    return points


# --- one checkpoint ---


def measure(point: Point) -> Result:
    path = Path(point["checkpoint"])
    checkpoint = checkpoints.load(path)
    checkpoint.config = checkpoint.config.on("cpu")
    data_dir = Path(point["data_dir"]) if point["data_dir"] else None
    dataset = scoring.dataset_of(checkpoint, path=path, places=(point["data"],), data_dir=data_dir)
    backend, selected = protocol.load(checkpoint.backend), checkpoint.selected()
    own = Measurement(
        scorer=backend.score(checkpoint.config, selected),
        checkpoint=checkpoint,
        dataset=dataset,
        progress=Progress(f"{checkpoint.backend} {checkpoint.config.model.variational}"),
        settings=Annealing(**{name: point[name] for name in ("chains", "distributions", "leapfrogs")}),
        point=point,
    )
    few = min(REPORTED, point["samples"])

    def scored(split: Literal["train", "test"], *, images: int, samples: int) -> estimators.PerImage:
        config = checkpoint.config.replace(images=images, samples=samples)
        of_split = scoring.scores(backend, selected, config=config, dataset=dataset, progress=own.progress, split=split)
        estimators.refuse_divergence(of_split)
        return of_split

    train, many = (scored(split, images=point["split_images"], samples=point["split_samples"]) for split in ("train", "test"))
    test = scored("test", images=point["images"], samples=point["samples"])
    found = own.annealed(Path(point["results"]) / f"{path.stem}.h5")
    encoder, best = own.elbos()
    lower, upper = own.bounds()
    reported = test.nested[test.sizes.index(few)]
    return {
        **{name: getattr(checkpoint, name) for name in ("backend", "preset")},
        "variational": checkpoint.config.model.variational,
        "config": checkpoint.config.as_dict(),
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "by_samples": estimators.by_samples(test),
        "mc_error": estimators.summary(test).log_px_mc_se,
        "annealed": mean_of(found.log_px) | {"mc_error": found.mc_error, "ess": float(found.ess.mean())},
        "missed": mean_of(found.log_px - reported),
        "elbo": mean_of(encoder),
        "amortization": mean_of(best - encoder),
        "approximation": mean_of(found.log_px - best),
        "train": {"elbo": apart(train.elbo, many.elbo), "log_px": apart(train.log_px, many.log_px)},
        "split_images": point["split_images"],
        "simulated": mean_of(upper - lower),
    }


def mean_of(values: np.ndarray) -> dict[str, float]:
    """The mean over images and its standard error."""
    return {"mean": float(values.mean()), "error": estimators.standard_error(values)}


def apart(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The difference of two means over different images, and its standard error."""
    error = np.hypot(estimators.standard_error(ours), estimators.standard_error(theirs))
    return {"mean": float(ours.mean() - theirs.mean()), "error": float(error)}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One checkpoint on its device, and how it is measured."""

    scorer: Scorer
    checkpoint: Checkpoint
    dataset: Dataset
    progress: Progress
    settings: Annealing
    point: Point

    @property
    def config(self) -> Config:
        return self.checkpoint.config

    @property
    def seed(self) -> int:
        return seed_for(self.config.training.seed, TEST)

    @property
    def latent(self) -> int:
        return self.config.model.latent_size

    @property
    def images(self) -> np.ndarray:
        """Indices of the test images, the same for every seed and model."""
        return data.subset(images=self.point["images"], of=len(self.dataset.test))

    def batches(self, images: np.ndarray) -> list[np.ndarray]:
        size = min(self.config.evaluation.image_batch, len(images))
        return [images[first : first + size] for first in range(0, len(images), size)]

    def annealed(self, beside: Path) -> annealed.Annealed:
        images = self.images
        code = environment.head()  # so that no batch of other code enters a row that names this commit
        of = {"of": self.point["sha256"], "settings": dataclasses.asdict(self.settings), "code": code}
        file = annealed.kept(beside, **of)
        if not self.point["resume"]:
            file.unlink(missing_ok=True)
        with self.progress.phase("annealing", total=len(images), unit="images") as advance:
            return annealed.of_images(
                self.scorer,
                self.scorer.place(self.dataset.test),
                images=images,
                config=self.config,
                settings=self.settings,
                seed=self.seed,
                file=file,
                report=lambda done: advance(done, None),
            )

    def elbos(self) -> tuple[np.ndarray, np.ndarray]:
        """Each test image's ELBO by the encoder's q and by the best q, [images] each, on the same noise."""
        images, handle = self.images, self.scorer.place(self.dataset.test)
        options: dict[str, Any] = {"latent": self.latent, "seed": self.seed}
        encoder: list[np.ndarray] = []
        best: list[np.ndarray] = []
        with self.progress.phase("own posteriors", total=len(images), unit="images") as advance:
            for rows in self.batches(images):
                outputs = local_posteriors.optimised(self.scorer, handle, rows, steps=self.point["steps"], **options)
                for outcome, of in ((encoder, self.scorer.outputs(handle, rows)), (best, outputs)):
                    outcome.append(
                        local_posteriors.elbo(self.scorer, handle, rows, outputs=of, samples=ELBO_SAMPLES, **options)
                    )
                advance(len(rows), None)
        return np.concatenate(encoder), np.concatenate(best)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of log p(x) of images that the model draws, from below and from above, [images] each."""
        draws = generator(self.config.training.seed, SIMULATED)
        count, dtype = self.point["simulated"], self.config.dtype
        latents = self.scorer.prior(draws.standard_normal((count, self.latent)).astype(dtype))
        x = (draws.random((count, self.config.model.pixels)) < self.scorer.decode(latents)).astype(np.uint8)
        handle, lower, upper = self.scorer.place(x), [], []
        start = self.scorer.noise_of(x.astype(dtype), latents[None])[0]
        options: dict[str, Any] = {"chains": self.settings.chains, "latent": self.latent, "seed": self.seed}
        with self.progress.phase("bounds", total=count, unit="images") as advance:
            for rows in self.batches(np.arange(count, dtype=np.int32)):
                target = annealing.target_of(self.scorer, handle, rows)
                of_tuning, of_up, of_down = (
                    Draws(rows, stream=stream, **options) for stream in (ANNEALING_SIZES, ANNEALING, ANNEALING_DOWN)
                )
                sizes = annealing.step_sizes(target, settings=self.settings, draws=of_tuning)
                up = annealing.up(target, sizes=sizes, settings=self.settings, draws=of_up)
                down = annealing.down(target, start[rows], sizes=sizes, settings=self.settings, draws=of_down)
                lower.append(estimators.log_mean_exp(up))
                upper.append(-estimators.log_mean_exp(-down))
                advance(len(rows), None)
        return np.concatenate(lower), np.concatenate(upper)


# --- from results to a report, tables and a figure ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    names = ("samples", "chains", "leapfrogs", "steps", "simulated", "split_samples")
    rows = [
        result | {"checkpoint_sha256": point["sha256"], "distributions": point["distributions"]} for point, result in measured
    ]
    images = {"images": measured[0][0]["images"]}  # the checkpoints share their data set
    return {"device": "cpu", "rows": rows} | images | {name: getattr(asked, name) for name in names}


def named(row: Result) -> tuple[str, str, str]:
    return row["preset"], row["variational"], row["backend"]


def at(row: Result, samples: int) -> str:
    """log p(x) by the first so many samples, in the report's digits; "-" where they weren't drawn."""
    found = row["by_samples"]
    return f"{found['log_px'][found['samples'].index(samples)]:.2f}" if samples in found["samples"] else "-"


def said(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['error']:.2f}"


def parts(report: Report) -> list[Part]:
    """A table of the bounds, a table of the gaps, and how they were measured."""
    rows, most = report["rows"], report["samples"]
    columns = ("model", "family", "backend")
    sizes = sorted({*(k for k in (1, 10, 100, REPORTED) if k <= most), most})
    bounds = Table(
        columns=(
            *columns,
            *(f"K = {k:,}" for k in sizes),
            "± draws",
            "ESS",
            "distributions",
            "annealing",
            f"above K = {min(REPORTED, most):,}",
            "its bounds apart",
        ),
        rows=[
            (
                *named(row),
                *(at(row, k) for k in sizes),
                f"{row['mc_error']:.2f}",
                f"{row['by_samples']['ess'][-1]:.0f}",
                f"{row['distributions']:,}",
                said(row["annealed"]),
                said(row["missed"]),
                said(row["simulated"]),
            )
            for row in rows
        ],
        left=columns,
    )
    gaps = Table(
        columns=(
            *columns,
            "ELBO",
            "amortization gap",
            "approximation gap",
            "log p(x)",
            "train − test: ELBO",
            "log p(x) ",
            "commit",
        ),
        rows=[
            (
                *named(row),
                f"{row['elbo']['mean']:.2f}",
                said(row["amortization"]),
                said(row["approximation"]),
                f"{row['annealed']['mean']:.2f}",
                said(row["train"]["elbo"]),
                said(row["train"]["log_px"]),
                row["commit"],
            )
            for row in rows
        ],
        left=(*columns, "commit"),
    )
    how = (
        f"{report['images']:,} test images, the same for all; annealing: {report['chains']} chains, "
        f"{report['leapfrogs']} leapfrog steps; own posteriors: {report['steps']:,} "
        f"steps; bounds: {report['simulated']} images that the model draws; train − test: {rows[0]['split_images']:,} images "
        f"of each, K = {report['split_samples']:,}"
    )
    measured = reports.machine(report["environment"], setting=f"{rows[0]['dataset']['name']}, {how}")
    return [bounds, gaps, f"{measured}."]


def draw(report: Report, path: Path) -> None:
    """log p(x) against K for each model, and a dotted line at log p(x) by annealing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(report["rows"]):
        found, colour = row["by_samples"], f"C{i}"
        axes.plot(found["samples"], found["log_px"], color=colour, marker="o", markersize=3, label=" ".join(named(row)))
        axes.axhline(row["annealed"]["mean"], color=colour, linestyle=":", linewidth=1)
    axes.set(xscale="log", xlabel="importance samples K", ylabel="log p(x), nats per image")
    axes.set_title(f"{report['images']:,} test images; dotted: annealed importance sampling", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figures.save(figure, path, dpi=100)
