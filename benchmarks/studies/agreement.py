"""Full-length agreement: the three frameworks train on the same weights, batches and noise; where do their curves part?

Every run is the first `--steps` of the preset's own, on its own schedules, with `noise = shared` and a curve of every step.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.harness import environment, reports, runs
from benchmarks.harness.cli import known, parse
from benchmarks.harness.presets import preset
from benchmarks.harness.progress import Progress
from benchmarks.harness.reports import Report
from common import checkpoints, data, protocol, training
from common.checkpoints import Checkpoint
from common.config import Dtype, Variational
from common.errors import UserError
from common.files import write_whole
from common.parameters import group

# Steps to a point of the report's curves, up to a step: the curves part early.
WINDOWS = ((20, 1), (100, 5), (None, 20))
EDGE = 100  # steps that the table calls the first and the last


@dataclass
class Agreement:
    preset: Annotated[str, tyro.conf.arg(help="Whose settings all train on.")] = "standard"
    steps: Annotated[int, tyro.conf.arg(help="Stop after these, on the schedules of the preset's own steps.")] = 2_000
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Two or more.")] = protocol.BACKENDS
    variational: Annotated[tuple[Variational, ...], tyro.conf.arg(help="One or both families.")] = ("mean-field", "flow")
    dtype: Annotated[tuple[Dtype, ...], tyro.conf.arg(help="One or both precisions.")] = ("float32", "float64")
    seed: Annotated[int, tyro.conf.arg(help="Of weights, batches and noise.")] = 0
    data: Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits or an .h5 file.")] = "binarized-mnist"
    data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
    results: Annotated[Path, tyro.conf.arg(help="Folder for checkpoints, the report and its figure.")] = field(
        default_factory=lambda: Path("results/agreement")
    )
    resume: Annotated[bool, tyro.conf.arg(help="Go on from the checkpoints in the results folder.")] = False


def main(arguments: list[str]) -> int:
    asked = parse(Agreement, arguments, command="agreement", description="Train the backends side by side on shared noise.")
    here = environment.describe()
    settings = preset(asked.preset).replace(noise="shared", seed=asked.seed, log_interval=1)
    known(asked.backend)
    if len(asked.backend) < 2:
        raise UserError("There is nothing to compare; give two backends or more.")
    if not 1 <= asked.steps <= settings.training.steps:
        raise UserError(f"--steps is {asked.steps}; it must be from 1 to the preset's own, {settings.training.steps:,}.")
    found = []
    for dtype, family in itertools.product(asked.dtype, asked.variational):
        finished: dict[str, Checkpoint] = {}
        for backend in asked.backend:
            job = runs.Job(
                backend=backend,
                preset=asked.preset,
                data=asked.data,
                data_dir=str(asked.data_dir) if asked.data_dir else None,
                config=settings.replace(variational=family, dtype=dtype),
                results=str(asked.results),
                resume=asked.resume,
            )
            finished[backend] = trained(runs.with_pixels(job), steps=asked.steps)
        found.append({"variational": family, "precision": dtype, **compared(finished)})
    (of, *_) = finished.values()
    content = {
        "preset": asked.preset,
        "seed": asked.seed,
        "device": settings.device,
        "dataset": {"name": of.dataset, "sha256": of.sha256},
        "steps": asked.steps,
        "schedule_steps": settings.training.steps,
        "runs": found,
    }
    path = reports.write("agreement", content, asked.results, environment=here)
    report = reports.read("agreement", asked.results)
    assert report is not None
    draw(report, path.with_suffix(".png"))
    print(table(report))
    print(f"The report is {path}, its figure {path.with_suffix('.png')}.", file=sys.stderr)
    return 0


def trained(job: runs.Job, *, steps: int) -> Checkpoint:
    """The job's checkpoint after its first `steps`, trained in a process of its own unless it is there to be resumed.

    Raises `UserError` where that process fails.
    """
    if job.resume and job.checkpoint.exists():
        checkpoint = runs.resumed(job, job.checkpoint, dataset=runs.checked(job))
        if int(checkpoint.state["step"]) == steps:
            return checkpoint
    if code := runs.in_process(job, command=("agreement-worker", str(steps))):
        raise UserError(f"The run of {job.checkpoint.name} ended with code {code}; its message stands above.")
    return checkpoints.load(job.checkpoint)


def worker(arguments: list[str]) -> int:
    """In a process of its own: train a job's first steps; it ends in a checkpoint, without a test."""
    (steps,) = map(int, arguments)
    job = runs.Job.from_json(sys.stdin.read())
    dataset = data.load(job.data, data_dir=Path(job.data_dir) if job.data_dir else None)
    checkpoint, session = runs.begin(job, backend=protocol.load(job.backend), dataset=dataset)
    config = job.config
    progress = Progress(f"{job.backend} {config.model.variational} {config.dtype}")
    with progress.phase("train", total=steps, unit="steps", rows=config.training.batch_size) as advance:
        advance(int(checkpoint.state["step"]), None)
        training.train(
            session,
            checkpoint,
            dataset=dataset,
            save=lambda checkpoint: checkpoints.save(checkpoint, job.checkpoint),
            report=lambda step, elbo: advance(1, elbo),  # log_interval = 1: chunks of one step
            between=lambda: None,
            until=steps,
        )
    return 0


# --- from checkpoints to a report ---


def compared(finished: dict[str, Checkpoint]) -> dict[str, Any]:
    """Curves of each backend, and of each pair the worst |difference| of the objective in every window of steps.

    The curves are means over a window; a difference is taken step by step, before any mean. `apart` is that of the means over
    the last steps. `last_bit` is the spacing of the precision's numbers at the objective.
    """
    objectives = {name: np.array(checkpoint.history["objective"]) for name, checkpoint in finished.items()}
    elbos = {name: np.array(checkpoint.history["elbo"]) for name, checkpoint in finished.items()}
    reference = next(iter(objectives.values()))
    dtype = next(iter(finished.values())).config.dtype
    pairs = []
    for (name, ours), (other, theirs) in itertools.combinations(finished.items(), 2):
        difference = objectives[name] - objectives[other]
        apart = abs(difference[-EDGE:].mean())
        difference = np.abs(difference)
        tensor, worst = deviation(group(ours.state, "parameters"), group(theirs.state, "parameters"))
        pairs.append(
            {
                "backends": [name, other],
                "difference": [short(v.max()) for v in windows(difference)],
                "first_step": short(difference[0]),
                "first": short(difference[:EDGE].max()),
                "last": short(difference[-EDGE:].max()),
                "apart": short(apart),
                "parameters": {"deviation": short(worst), "tensor": tensor},
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
    """The steps' values, [steps], cut by WINDOWS."""
    cuts: list[int] = []
    for until, size in WINDOWS:
        first = cuts[-1] if cuts else 0
        cuts += range(first + size, min(until or len(values), len(values)) + 1, size)
    return [window for window in np.split(values, cuts) if len(window)]


def deviation(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[str, float]:
    """The tensor with the largest max|a − b| / max|b|, and that; a tensor of zeros deviates by its largest value."""
    found = {
        name: float(np.abs(a - theirs[name]).max() / (np.abs(theirs[name]).max() or 1.0)) for name, a in sorted(ours.items())
    }
    worst = max(found, key=found.__getitem__)
    return worst, found[worst]


def short(value: Any, digits: int = 3) -> float:
    """A number to so many digits: what a report keeps of a curve."""
    return float(f"{float(value):.{digits}g}")


# --- from a report to a figure and a table ---

PAIR_COLOURS = ("#4477aa", "#ee6677", "#228833")  # Paul Tol's, told apart without colour vision too
CURVES = (("#bbbbbb", "-", 5.0), ("#66ccee", "-", 2.5), ("#222222", ":", 1.2))  # each narrower than the one below
LINES = ("-", (0, (4, 1.5)))  # a precision's


def draw(report: Report, path: Path) -> None:
    """A column a family: the objective's curves above, the pairs' |differences| in every precision below."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(run["variational"] for run in report["runs"]))
    figure = Figure(figsize=(5.2 * len(families), 7.0), layout="constrained")
    axes = figure.subplots(2, len(families), sharex=True, sharey="row", squeeze=False, height_ratios=(2, 3))
    for column, family in enumerate(families):
        above, below = axes[:, column]
        members = [run for run in report["runs"] if run["variational"] == family]
        curves(above, members[0])
        for run, line in zip(members, itertools.cycle(LINES), strict=False):
            differences(below, run, line=line)
        above.set_title(f"{family}: objective in {members[0]['precision']}", fontsize=10)
        below.set_title(f"{family}: |difference| of the objective", fontsize=10)
        below.set(xscale="log", yscale="log", xlabel="step")
        for panel in (above, below):
            panel.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("nats per image")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)

    def to(temporary: Path) -> None:
        figure.savefig(temporary, dpi=100)

    write_whole(path, to)


def curves(axes: Any, run: dict[str, Any]) -> None:
    for (name, values), (colour, line, width) in zip(run["objective"].items(), itertools.cycle(CURVES), strict=False):
        axes.plot(run["step"], values, color=colour, linestyle=line, linewidth=width, label=name)


def differences(axes: Any, run: dict[str, Any], *, line: Any) -> None:
    for pair, colour in zip(run["pairs"], itertools.cycle(PAIR_COLOURS), strict=False):
        values = np.array(pair["difference"])
        values = np.where(values > 0, values, np.nan)  # 0 has no place on a log axis
        label = f"{' − '.join(pair['backends'])}, {run['precision']}"
        axes.plot(run["step"], values, color=colour, linewidth=1.2, linestyle=line, marker=".", markersize=2, label=label)
    axes.plot(run["step"], run["last_bit"], color="black", linewidth=0.8, linestyle=":")
    text = f"last bit of the objective in {run['precision']}"
    axes.annotate(text, (run["step"][-1], run["last_bit"][-1]), ha="right", va="top", fontsize=7)


def table(report: Report) -> str:
    """A row a family, precision and pair: the objective's largest |difference|, and the last steps' mean one, in nats."""
    columns = (
        f"family | precision | pair | step 1 | first {EDGE} | last {EDGE} | their mean | parameters' deviation, worst tensor"
    )
    lines = [f"| {columns} |", "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for run in report["runs"]:
        for pair in run["pairs"]:
            cells = (
                run["variational"],
                run["precision"],
                " − ".join(pair["backends"]),
                *(f"{pair[key]:.1e}" for key in ("first_step", "first", "last", "apart")),
                f"{pair['parameters']['deviation']:.1e} `{pair['parameters']['tensor']}`",
            )
            lines.append(f"| {' | '.join(cells)} |")
    setting = f"{report['device']}, seed {report['seed']}, the first {report['steps']:,} of {report['schedule_steps']:,} steps"
    name = f"`{report['preset']}` on {report['dataset']['name']}"
    measured = reports.where(report["environment"], setting=f"{name}, {setting}")
    return "\n".join([*lines, "", f"{measured}.", ""])
