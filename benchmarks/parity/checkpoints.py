"""python -m benchmarks cross-evaluate: what one backend has trained scores the same in every other.

Two proofs of it, for each checkpoint:

- as `evaluate` does it: each backend draws its own noise, so that the figures of a row differ by Monte-Carlo error. That error
  is known, since all score the same images: the standard error of the mean of the images' differences.
- on given noise nothing is random: log weights [samples, images] agree to rounding. This is the sharper proof by orders of
  magnitude, and the only one of the two that doesn't run a backend's own generator.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from benchmarks.harness import environment, reports, runs
from benchmarks.harness.cli import parse
from benchmarks.harness.processes import UNAVAILABLE
from benchmarks.harness.progress import Progress
from benchmarks.outputs import tables
from common import checkpoints, data, estimators, protocol
from common.checkpoints import Checkpoint
from common.config import Config, Device, check
from common.errors import UserError
from common.noise import CHECKPOINTS_NOISE, TEST, generator, seed_for

REPORT = "cross-evaluate"

# Given noise: so many samples of each of the first test images.
GIVEN_SAMPLES, GIVEN_IMAGES = 25, 100
# Deviation allowed on given noise, max|a − b| / max|b|: sums over pixels and layers, taken in another order. Ten times the 3e-7
# (five roundings) that float32 was off in the sizes of `quick` and `standard`; in float64 and bfloat16 the
# bound of the parity tests.
TOLERANCE = {"float32": 3e-6, "float64": 1e-12, "tf32": 1e-3, "bfloat16": 1e-3}
# Monte-Carlo standard errors that two backends may differ by: chance passes 5 once in two million.
ERRORS = 5.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What the process of an evaluating backend is asked to do; it writes its arrays into the file `output`."""

    backend: str
    checkpoints: list[str]
    samples: int | None
    images: int | None
    device: str
    data_dir: str | None
    output: str


@dataclass(frozen=True)
class Scores:
    """Of one checkpoint in one backend: `test` on its own noise, log weights [samples, images] on given noise."""

    test: estimators.PerImage
    log_weights: np.ndarray


def main(arguments: list[str]) -> int:
    @dataclass
    class CrossEvaluate:
        checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help="The .h5 files of runs.")]
        samples: Annotated[int | None, tyro.conf.arg(help="K; as in each run by default.")] = None
        images: Annotated[int | None, tyro.conf.arg(help="Test images, a seeded random subset; 0 for all.")] = None
        backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Who evaluates; all by default.")] = protocol.BACKENDS
        device: Annotated[Device, tyro.conf.arg(help="Where the models live.")] = "cpu"
        data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
        results: Annotated[Path, tyro.conf.arg(help="Folder for the report.")] = Path("results/reports")

    asked = parse(CrossEvaluate, arguments, command="cross-evaluate", description="Checkpoints, each in every backend.")
    here = environment.describe(asked.device)
    if not asked.checkpoints:
        raise UserError("Which checkpoints? `python -m benchmarks run` writes them into its results folder, as .h5 files.")
    if len(set(asked.backend)) < 2 or not set(asked.backend) <= set(protocol.BACKENDS):
        raise UserError(f"--backend takes two or more of {', '.join(protocol.BACKENDS)}.")
    loaded = {str(path): checkpoints.load(path) for path in asked.checkpoints}
    backends = [name for name in protocol.BACKENDS if name in asked.backend]
    scores: dict[str, list[Scores]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in backends:
            task = Task(
                backend=name,
                checkpoints=list(loaded),
                samples=asked.samples,
                images=asked.images,
                device=asked.device,
                data_dir=str(asked.data_dir) if asked.data_dir else None,
                output=str(Path(folder) / f"{name}.npz"),
            )
            for path, checkpoint in loaded.items():
                evaluated(task, path, checkpoint)
            if code := in_process(task):
                if code in (2, UNAVAILABLE):
                    return 2  # it has said why
                raise UserError(f"The process of {name} ended with code {code}; its message stands above.")
            scores[name] = read(Path(task.output), count=len(loaded))
    rows = [
        row(checkpoint, {name: found[i] for name, found in scores.items()}, samples=asked.samples, device=asked.device)
        for i, checkpoint in enumerate(loaded.values())
    ]
    rows = tables.in_order(rows)
    show(rows)
    print(f"Wrote {reports.write(REPORT, {'rows': rows}, asked.results, environment=here)}.")
    uneven = [each for each in rows if not flat(each)]
    for each in uneven:
        print(f"Not flat: {each['variational']}, trained by {tables.trained_by(each)}.", file=sys.stderr)
    return 1 if uneven else 0


def in_process(task: Task) -> int:
    """Run the task in a process of its own and return its exit code."""
    command = [sys.executable, "-m", "benchmarks", "cross-evaluate-worker"]
    return subprocess.run(command, input=json.dumps(dataclasses.asdict(task)), text=True, check=False).returncode


# --- the evaluating process ---


def worker(arguments: list[str]) -> int:
    task = Task(**json.loads(sys.stdin.read()))
    try:
        backend = protocol.load(task.backend)
    except UserError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    arrays: dict[str, np.ndarray] = {}
    for i, path in enumerate(task.checkpoints):
        scores = score(backend, task, path)
        arrays |= {f"{i}/{field}": value for field, value in vars(scores.test).items()}
        arrays[f"{i}/log_weights"] = scores.log_weights
    np.savez(task.output, allow_pickle=False, **arrays)
    return 0


def evaluated(task: Task, path: str, checkpoint: Checkpoint) -> tuple[Config, data.Dataset]:
    """With which settings, on which data. Raises `UserError` where either doesn't fit."""
    given = {"samples": task.samples, "images": task.images, "device": task.device}
    config = checkpoint.config.replace(**{name: value for name, value in given.items() if value is not None})
    dataset = data.load(checkpoint.dataset, data_dir=Path(task.data_dir) if task.data_dir else None)
    if dataset.sha256 != checkpoint.sha256:
        raise UserError(f"{path} was trained on other data than {checkpoint.dataset} now holds.")
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    if (config.evaluation.images or len(dataset.test)) < 2:
        raise UserError("--images is 1; an error needs at least 2.")
    return config, dataset


def score(backend: protocol.Backend, task: Task, path: str) -> Scores:
    checkpoint = checkpoints.load(Path(path))
    config, dataset = evaluated(task, path, checkpoint)
    session = runs.judging(backend, checkpoint.selected(), config=config)
    handle = session.place(dataset.test)
    images = data.subset(images=config.evaluation.images, of=len(dataset.test))
    progress = Progress(f"{task.backend} evaluates {Path(path).stem}:")
    with progress.phase("test", total=len(images), unit="images") as advance:
        test = estimators.per_image(
            session,
            handle,
            images=images,
            samples=config.evaluation.samples,
            seed=seed_for(config.training.seed, TEST),
            image_batch=config.evaluation.image_batch,
            sample_block=config.evaluation.sample_block,
            report=lambda done: advance(done, None),
        )
    rows = images[:GIVEN_IMAGES]
    draws = generator(config.training.seed, CHECKPOINTS_NOISE)
    noise = draws.standard_normal((GIVEN_SAMPLES, len(rows), config.model.latent_size)).astype(config.dtype)
    log_weights = session.log_weights(handle, rows, samples=range(GIVEN_SAMPLES), seed=0, noise=noise)
    return Scores(test=test, log_weights=log_weights)


def read(path: Path, *, count: int) -> list[Scores]:
    """What a worker wrote about so many checkpoints."""
    fields = [field.name for field in dataclasses.fields(estimators.PerImage)]
    with np.load(path, allow_pickle=False) as arrays:
        return [
            Scores(
                test=estimators.PerImage(**{field: arrays[f"{i}/{field}"] for field in fields}),
                log_weights=arrays[f"{i}/log_weights"],
            )
            for i in range(count)
        ]


# --- the table ---


def row(checkpoint: Checkpoint, scores: dict[str, Scores], *, samples: int | None, device: str) -> Row:
    """A checkpoint's row of the report, from its scores in each backend.

    difference     of two backends' log p(x), on their own noise, between the two that are farthest apart in errors;
                   difference_se its standard error: a Monte-Carlo error, the images are the same
    deviation      the largest of the log weights on given noise, max|a − b| / max|b|, over pairs of backends
    """
    config = checkpoint.config
    samples = samples or config.evaluation.samples
    apart = []
    for one, other in itertools.combinations(scores, 2):
        differences = scores[one].test.log_px - scores[other].test.log_px
        apart.append((float(differences.mean()), estimators.standard_error(differences), one, other))
    difference, difference_se, one, other = max(apart, key=lambda each: abs(each[0]) / max(each[1], 1e-300))
    return {
        "backend": checkpoint.backend,
        "trained": checkpoint.trained(checkpoint.selected_step()),
        "variational": config.model.variational,
        "preset": checkpoint.preset,
        "dataset": {"name": checkpoint.dataset, "sha256": checkpoint.sha256},
        "seed": config.training.seed,
        "precision": config.factors,
        "device": device,
        "evaluated": {
            name: dataclasses.asdict(estimators.summary(found.test, samples=samples)) for name, found in scores.items()
        },
        "difference": difference,
        "difference_se": difference_se,
        "difference_between": [one, other],
        "deviation": max(
            float(np.abs(scores[a].log_weights - scores[b].log_weights).max() / np.abs(scores[b].log_weights).max())
            for a, b in itertools.combinations(scores, 2)
        ),
    }


def flat(row: Row) -> bool:
    """Whether a row's figures are one figure: within ERRORS on each backend's own noise, within TOLERANCE on given noise."""
    return abs(row["difference"]) <= ERRORS * row["difference_se"] and row["deviation"] <= TOLERANCE[row["precision"]]


def cells(row: Row) -> dict[str, str]:
    scores = {f"in {name}": f"{found['log_px']:.3f} ± {found['log_px_se']:.3f}" for name, found in row["evaluated"].items()}
    return {
        "family": row["variational"],
        "trained by": tables.trained_by(row),
        **scores,
        "largest difference": f"{row['difference']:+.4f} ± {row['difference_se']:.4f}",
        "given noise": f"{row['deviation']:.1e}",
    }


def show(rows: Sequence[Row]) -> None:
    lines = [cells(each) for each in rows]
    title = "log p(x) of the test images, nats, by who trained (rows) and who evaluates (columns)"
    tables.show(Console(), title=title, columns=list(lines[0]), rows=[list(line.values()) for line in lines])


def markdown(report: reports.Report) -> str:
    """The README's block."""
    rows: list[Row] = report["rows"]
    lines = [cells(each) for each in rows]
    columns = list(lines[0])
    texts = ("family", "trained by")
    result = [
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join("---" if column in texts else "---:" for column in columns) + " |",
        *("| " + " | ".join(line.values()) + " |" for line in lines),
        "",
    ]
    settings = {
        f"`{each['preset']}` on {each['dataset']['name']}, {each['trained'][-1]['last_step']:,} steps; "
        f"{found['images']:,} test images, K = {found['importance_samples']:,}"
        for each in rows
        for found in each["evaluated"].values()
    }
    measured = {f"{each['device']}, {each['precision']}" for each in rows}
    result += [f"- {setting}." for setting in sorted(settings)]
    result.append(f"- {reports.where(report['environment'], setting='; '.join(sorted(measured)))}.")
    return "\n".join(result)
