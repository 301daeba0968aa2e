"""The backends train on the same weights, batches and noise: at which step do their curves part, and how far?

Every run is the first `--steps` of the preset's own, on its own schedules, with `noise = shared` and a curve of every step.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.harness import checks, reports, runs
from benchmarks.harness.cli import Families
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.harness.reports import Report
from benchmarks.outputs import figures
from benchmarks.outputs.table import Part, Table
from benchmarks.parity.comparison import deviation
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import checkpoints, protocol
from common.checkpoints import Checkpoint
from common.config import Config, Dtype
from common.errors import UserError
from common.parameters import group

EDGE = 100  # the table's first and last steps


@dataclass(kw_only=True)
class Arguments(skeleton.DataArguments):
    preset: Annotated[str, tyro.conf.arg(help="The settings of every run.")] = "standard"
    steps: Annotated[int, tyro.conf.arg(help="Stop after these, on the schedules of the preset's own steps.")] = 2_000
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Two or more; all by default.")] = ()
    variational: Families = ("mean-field", "flow")
    dtype: Annotated[tuple[Dtype, ...], tyro.conf.arg(help="One or both precisions.")] = ("float32", "float64")
    seed: Annotated[int, tyro.conf.arg(help="Of weights, batches and noise.")] = 0


def check(asked: Arguments) -> None:
    whole = preset(asked.preset).training.steps
    if not 1 <= asked.steps <= whole:
        raise UserError(f"--steps is {asked.steps}; it must be from 1 to the preset's own, {whole:,}.")


def settings(asked: Arguments) -> Config:
    return preset(asked.preset).replace(noise="shared", seed=asked.seed, log_interval=1)


def plan(asked: Arguments) -> dict[str, Point]:
    """A run for each precision, family and backend."""
    if len(asked.backend) < 2:
        raise UserError("There is nothing to compare; give two backends or more.")
    points = {}
    for dtype, family, backend in itertools.product(asked.dtype, asked.variational, asked.backend):
        job = Job(
            backend=backend,
            preset=asked.preset,
            data=asked.data,
            data_dir=str(asked.data_dir) if asked.data_dir else None,
            config=settings(asked).replace(variational=family, dtype=dtype),
            results=str(asked.results),
            resume=False,
        )
        point = {"variational": family, "precision": dtype, "backend": backend, "steps": asked.steps}
        points[f"{dtype}_{family}_{backend}"] = point | {"job": checks.checked(job).as_json()}
    return points


def measure(point: Point) -> Result:
    """Train the job's first steps, without a test. The checkpoint has the curve of each step and the parameters.

    Raises `UserError` for a checkpoint to be resumed that is of other settings or past these steps.
    """
    job = dataclasses.replace(Job.from_json(point["job"]), resume=point["resume"])
    dataset = job.dataset()
    checkpoint, session = runs.begin(job, backend=protocol.load(job.backend), dataset=dataset)
    done, steps = int(checkpoint.state["step"]), point["steps"]
    if done > steps:
        raise UserError(f"The checkpoint {job.checkpoint} is at step {done}, past {steps}; leave out --resume.")
    runs.train(
        job,
        session,
        checkpoint,
        dataset=dataset,
        title=f"{job.backend} {job.config.model.variational} {job.config.dtype}",
        keep=lambda checkpoint: None,
        between=lambda: None,
        until=steps,
    )
    return {"checkpoint": str(job.checkpoint)}


# --- from checkpoints to a report ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    compared_runs = []
    members = skeleton.grouped((point | result for point, result in measured), "variational", "precision")
    for (family, dtype), points in members.items():
        finished = {point["backend"]: checkpoints.load(Path(point["checkpoint"])) for point in points}
        compared_runs.append({"variational": family, "precision": dtype, **compared(finished)})
    checkpoint = next(iter(finished.values()))
    return {
        "preset": asked.preset,
        "seed": asked.seed,
        "device": settings(asked).device,
        "dataset": {"name": checkpoint.dataset, "sha256": checkpoint.sha256},
        "steps": asked.steps,
        "schedule_steps": preset(asked.preset).training.steps,
        "runs": compared_runs,
    }


def compared(finished: dict[str, Checkpoint]) -> dict[str, Any]:
    """Each backend's curves, and each pair's largest |difference| of the objective in every window of steps.

    The curves are means over a window; a difference is taken step by step. `apart` is the difference of the means over the
    last steps. `last_bit` is the spacing of the precision's numbers at the objective.
    """
    objectives, elbos = (
        {name: np.array(checkpoint.history[curve]) for name, checkpoint in finished.items()} for curve in ("objective", "elbo")
    )
    reference = next(iter(objectives.values()))
    dtype = next(iter(finished.values())).config.dtype
    pairs = []
    for (name, ours), (other, theirs) in itertools.combinations(finished.items(), 2):
        signed = objectives[name] - objectives[other]
        difference = np.abs(signed)
        pairs.append(
            {
                "backends": [name, other],
                "difference": [short(v.max()) for v in windows(difference)],
                "first_step": short(difference[0]),
                "first": short(difference[:EDGE].max()),
                "last": short(difference[-EDGE:].max()),
                "apart": short(abs(signed[-EDGE:].mean())),
                "parameters": worst_of(group(ours.state, "parameters"), group(theirs.state, "parameters")),
            }
        )
    return {
        "step": [int(v[-1]) for v in windows(np.arange(1, len(reference) + 1))],
        "objective": {name: [short(v.mean(), 6) for v in windows(values)] for name, values in objectives.items()},
        "elbo": {name: [short(v.mean(), 6) for v in windows(values)] for name, values in elbos.items()},
        "last_bit": [short(np.spacing(np.abs(v).mean().astype(dtype))) for v in windows(reference)],
        "pairs": pairs,
    }


def windows(values: np.ndarray) -> list[np.ndarray]:
    """Values [steps], cut into windows of 1 step until step 20, of 5 until step 100, then of 20: the curves part early."""
    cuts = [*range(1, 20), *range(20, 100, 5), *range(100, len(values), 20)]
    return np.split(values, [cut for cut in cuts if cut < len(values)])


def worst_of(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, Any]:
    """The tensor that deviates most, and its deviation max|a − b| / max|b|."""
    deviations = {name: deviation(values, theirs[name]) for name, values in sorted(ours.items())}
    tensor = max(deviations, key=deviations.__getitem__)
    return {"deviation": short(deviations[tensor]), "tensor": tensor}


def short(value: Any, digits: int = 3) -> float:
    """The number rounded to so many digits, to keep the report short."""
    return float(f"{float(value):.{digits}g}")


# --- from a report to a figure and a table ---

PAIR_COLOURS = ("#4477aa", "#ee6677", "#228833")  # Paul Tol's, which differ without colour vision too
CURVES = (("#bbbbbb", "-", 5.0), ("#66ccee", "-", 2.5), ("#222222", ":", 1.2))  # each narrower than the curve drawn before
LINES = ("-", (0, (4, 1.5)))  # of the precisions


def draw(report: Report, path: Path) -> None:
    """A column for each family: the objective's curves above, below them each pair's |difference| in each precision."""
    from matplotlib.figure import Figure

    families = skeleton.grouped(report["runs"], "variational")
    figure = Figure(figsize=(5.2 * len(families), 7.0), layout="constrained")
    axes = figure.subplots(2, len(families), sharex=True, sharey="row", squeeze=False, height_ratios=(2, 3))
    for ((family,), members), (above, below) in zip(families.items(), axes.T, strict=True):
        for (name, values), (colour, line, width) in zip(members[0]["objective"].items(), CURVES, strict=False):
            above.plot(members[0]["step"], values, color=colour, linestyle=line, linewidth=width, label=name)
        for run, dashes in zip(members, LINES, strict=False):
            differences(below, run, line=dashes)
        above.set_title(f"{family}: objective in {members[0]['precision']}", fontsize=10)
        below.set_title(f"{family}: |difference| of the objective", fontsize=10)
        below.set(xscale="log", yscale="log", xlabel="step")
        for panel in (above, below):
            panel.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("nats per image")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figures.save(figure, path, dpi=100)


def differences(axes: Any, run: dict[str, Any], *, line: Any) -> None:
    """A line for each pair, and one for the spacing of the precision's numbers."""
    for pair, colour in zip(run["pairs"], PAIR_COLOURS, strict=False):
        values = np.array(pair["difference"])
        values[values == 0] = np.nan  # 0 has no place on a log axis
        label = f"{' − '.join(pair['backends'])}, {run['precision']}"
        axes.plot(run["step"], values, color=colour, linewidth=1.2, linestyle=line, marker=".", markersize=2, label=label)
    axes.plot(run["step"], run["last_bit"], color="black", linewidth=0.8, linestyle=":")
    text = f"last bit of the objective in {run['precision']}"
    axes.annotate(text, (run["step"][-1], run["last_bit"][-1]), ha="right", va="top", fontsize=7)


def parts(report: Report) -> list[Part]:
    """A row for each family, precision and pair: |differences| of the objective, in nats, and of the parameters."""
    worst = "parameters' deviation, worst tensor"
    columns = ("family", "precision", "pair", "step 1", f"first {EDGE}", f"last {EDGE}", "their mean", worst)
    rows = [
        (
            run["variational"],
            run["precision"],
            " − ".join(pair["backends"]),
            *(f"{pair[key]:.1e}" for key in ("first_step", "first", "last", "apart")),
            f"{pair['parameters']['deviation']:.1e} `{pair['parameters']['tensor']}`",
        )
        for run in report["runs"]
        for pair in run["pairs"]
    ]
    setting = f"{report['device']}, seed {report['seed']}, the first {report['steps']:,} of {report['schedule_steps']:,} steps"
    name = f"`{report['preset']}` on {report['dataset']['name']}"
    measured = reports.where(report["environment"], setting=f"{name}, {setting}")
    return [Table(columns=columns, rows=rows, left=("family", "precision", "pair", worst)), f"{measured}."]
