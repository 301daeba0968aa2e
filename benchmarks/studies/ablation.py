"""The older scripts' settings, one difference at a time made equal: what each is worth in nats and in examples/s.

Every variant is a run like any other, a record and a checkpoint in the results folder, on a data set whose test images are a
seeded random choice of the validation images: no variant sees the test set.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro

from benchmarks.harness import checks, processes, records, reports, runs, scoring
from benchmarks.harness.cases import Bench
from benchmarks.harness.cli import at_least
from benchmarks.harness.copies import Replacement, replaced
from benchmarks.harness.environment import ROOT
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import differing, flat, preset
from benchmarks.harness.progress import Progress
from benchmarks.harness.record_schema import Record
from benchmarks.harness.reports import Report
from benchmarks.outputs.older import ANCESTORS
from benchmarks.outputs.table import Part, Table, ranged
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import checkpoints, config, data, protocol
from common.config import Config, Variational
from common.data import Dataset
from common.files import write_hdf5

# Each script's settings are replaced, one group at a time, by this other script's: the two scripts that report a test log p(x)
# by one another's, the third's by the faster one's.
EQUAL_TO = {
    "ancestor-pytorch": "ancestor-jax",
    "ancestor-jax": "ancestor-pytorch",
    "ancestor-tensorflow": "ancestor-jax",
}
GROUPS = {
    "width": ("latent_size", "hidden_size"),
    "batch": ("batch_size",),
    "epsilon": ("rmsprop_epsilon", "rmsprop_epsilon_in_root"),
    "decay": ("rmsprop_decay",),
    "centering": ("rmsprop_centered",),
    "accumulator": ("rmsprop_initial_accumulator",),
    "initial-weights": ("initial_weights",),
    "selection": ("selection",),
}
# Script, family and fault of the script → the change that makes this suite compute what the script computes.
FAULTS: dict[tuple[str, Variational, str], Replacement] = {
    ("ancestor-jax", "flow", "log-det-without-gate-bias"): Replacement(
        file="backends/jax/flow.py",
        before="        s = s + self.gate_bias\n        gate = nnx.sigmoid(s)\n",
        after="        gate = nnx.sigmoid(s + self.gate_bias)\n",
    ),
    ("ancestor-jax", "flow", "reversal-on-sample-axis"): Replacement(
        file="backends/jax/flow.py", before="z = jnp.flip(z, -1)", after="z = jnp.flip(z, 0)"
    ),
    ("ancestor-tensorflow", "mean-field", "analytic-kl"): Replacement(
        file="backends/tensorflow/vae.py",
        before='"log_q": log_q,',
        after='"log_q": standard_normal_log_density(z)\n'
        "            + tf.reduce_sum(0.5 * (scale**2 + loc**2 - 1) - tf.math.log(scale), -1),",
    ),
}
AS_IT_IS = "as it is"
LABELS = ("script", "family", "change")
ROUNDS, ROUND_STEPS = 10, 20  # of the interleaved clock


@dataclass(frozen=True)
class Variant:
    """A script's preset with one difference: other settings, or a fault of the script, put into this suite's code."""

    base: str
    variational: Variational
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    fault: Replacement | None = None

    @property
    def backend(self) -> str:
        return ANCESTORS[self.base]

    @property
    def mutation(self) -> str | None:
        """The name of the faulty code that the variant trains with; tests/parity/mutations.txt has it too."""
        return f"{self.name}-{self.backend}" if self.fault else None

    @property
    def change(self) -> str:
        """The difference in words."""
        if self.fault:
            return f"with {self.name.replace('-', ' ')}"
        if self.name == "all":
            return f"all of these: {EQUAL_TO[self.base]}'s settings"
        ours = flat(preset(self.base))
        words = [f"{plain(key)} {plain(ours[key])} → {plain(value)}" for key, value in self.settings.items()]
        return ", ".join(words) or AS_IT_IS


def check(asked: Arguments) -> None:
    at_least(asked, images=2, samples=2)  # of one the errors are unknown


def variants() -> dict[str, Variant]:
    """Name → variant: each script as it is, with each group of settings made equal, with all of them, and with each fault."""
    result = []
    for base, other in EQUAL_TO.items():
        theirs = differing(preset(other), preset(base))
        groups = {name: {key: theirs[key] for key in keys if key in theirs} for name, keys in GROUPS.items()}
        every = {key: value for settings in groups.values() for key, value in settings.items()}
        changes: dict[str, dict[str, Any]] = {AS_IT_IS: {}}
        changes |= {name: settings for name, settings in groups.items() if settings} | {"all": every}
        result += [Variant(base, "mean-field", name, settings) for name, settings in changes.items()]
    faults = [Variant(*named, fault=fault) for named, fault in FAULTS.items()]
    flows = dict.fromkeys(fault.base for fault in faults if fault.variational == "flow")
    result += [Variant(base, "flow", AS_IT_IS) for base in flows] + faults
    return {f"{variant.base} {variant.variational} {variant.name}": variant for variant in result}


def plain(value: Any) -> str:
    """A setting's name or value in a table."""
    return f"{value:.2g}" if isinstance(value, float) else str(value).removeprefix("rmsprop_").replace("_", " ")


# --- the points ---


@dataclass(kw_only=True)
class Arguments(skeleton.DataArguments):
    """The arguments of each study whose runs are tested on validation images."""

    steps: Annotated[int, tyro.conf.arg(help="Steps of each run.")] = 1_000
    seed: Annotated[tuple[int, ...], tyro.conf.arg(help="Seeds, a run of every variant each.")] = (0, 1)
    images: Annotated[int, tyro.conf.arg(help="Validation images, a seeded random subset.")] = 500
    samples: Annotated[int, tyro.conf.arg(help="K: importance samples an image.")] = 100

    @property
    def held_out(self) -> Path:
        """The data set file of `on_validation`."""
        return self.results / "validation.h5"

    def job(self, backend: str, name: str, settings: Config, *, dataset: Dataset) -> Job:
        """A run of the settings on `held_out`. Raises `UserError` where they don't fit one another or the data set."""
        settings = settings.replace(image_shape=dataset.image_shape, steps=self.steps, samples=self.samples, images=0)
        config.check(settings, train_images=len(dataset.train), test_images=len(dataset.test))
        return Job(backend, name, str(self.held_out), None, settings, str(self.results / "runs"), resume=False)

    def about_runs(self, results: Iterable[Result]) -> dict[str, Any]:
        """The part of the report's content that says what was trained, by which commits, and how it was tested."""
        dataset = self.dataset()
        return {
            "run_commits": sorted({result["commit"] for result in results}),
            "dataset": {"name": dataset.name, "sha256": dataset.sha256},
            "steps": self.steps,
            "seeds": list(self.seed),
            "images": self.images,
            "samples": self.samples,
        }


def plan(asked: Arguments) -> dict[str, Point]:
    """Every variant's run, one seed after another; then the clocks: one process for each script, one for each faulty code."""
    dataset = asked.dataset()
    on_validation(dataset, images=asked.images, path=asked.held_out)
    points: dict[str, Point] = {}
    clocks: dict[str, Point] = {}
    for seed, (name, variant) in itertools.product(asked.seed, variants().items()):
        job = job_of(variant, asked, seed=seed, dataset=dataset).as_json()
        points[f"{name.replace(' ', '_')}_{seed}"] = {"variants": [name], "jobs": [job], "clock": None}
        if seed == asked.seed[0]:
            clock = variant.mutation or variant.base
            point = clocks.setdefault(f"clock_{clock}", {"variants": [], "jobs": [], "clock": clock})
            point["variants"].append(name)
            point["jobs"].append(job)
    return points | clocks


def on_validation(dataset: Dataset, *, images: int, path: Path) -> None:
    """Write a data set file with the same training and validation images, whose test images are some validation images."""
    chosen = dataset.valid[data.subset(images=images, of=len(dataset.valid))]

    def fill(file: h5py.File) -> None:
        file.attrs["image_shape"] = dataset.image_shape
        for split, values in (("train", dataset.train), ("valid", dataset.valid), ("test", chosen)):
            file[split] = values

    write_hdf5(path, fill)


def job_of(variant: Variant, asked: Arguments, *, seed: int, dataset: Dataset) -> Job:
    settings = preset(variant.base).replace(
        **variant.settings, variational=variant.variational, seed=seed, validation_interval=max(asked.steps // 2, 1)
    )
    return asked.job(variant.backend, f"{variant.base}+{variant.name}", settings, dataset=dataset)


def run(point: Point) -> Result:
    """A clock's seconds, see `clock`; or the tests of a run: `claimed` by the run's own code, `judged` by this checkout's.

    Raises `UserError` where a process fails.
    """
    variant = variants()[point["variants"][0]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = ROOT
        if variant.fault:
            folder = Path(temporary)
            replaced(folder, variant.fault)
        if point["clock"]:
            title = f"the clock of {point['clock']}"
            return {"seconds": processes.ask(f"{__name__}:clock", point["jobs"], title=title, folder=folder)}
        job = dataclasses.replace(Job.from_json(point["jobs"][0]), resume=point["resume"])
        own = done(job, folder=folder)
    judged = own["test"]
    if variant.fault:
        judged = processes.ask(f"{__name__}:judged", job.as_json(), title=f"the test of {job.checkpoint.name}")
    return {"claimed": own["test"], "judged": judged, "commit": str(own["environment"]["commit"])}


def done(job: Job, *, folder: Path = ROOT) -> Record:
    """The job's record, from a process with the code in `folder`, unless the record is there and may be resumed."""
    if not (job.resume and checks.finished(job)) and (code := runs.in_process(job, folder=folder)):
        raise processes.ProcessError(job.record.name, code)
    return records.read(job.record)


def judged(text: str) -> dict[str, Any]:
    """The test of a job's checkpoint, by this checkout's code."""
    job = Job.from_json(text)
    estimates = scoring.evaluate(
        protocol.load(job.backend),
        checkpoints.load(job.checkpoint).selected(),
        config=job.config,
        dataset=job.dataset(),
        progress=Progress(job.checkpoint.stem),
    )
    return dataclasses.asdict(estimates)


def clock(jobs: list[str]) -> list[dict[str, list[float]]]:
    """Seconds of each job's training step and of its products, one measurement a round; the jobs take turns in a process."""
    cases = []
    for text in jobs:
        job = Job.from_json(text)
        bench = Bench(job.backend, job.config.model.variational, device=job.config.device, settings=job.config)
        cases.append(bench.case("train", job.config.training.batch_size, steps=ROUND_STEPS))
    # [round, job, step or products]; the first round compiles.
    seconds = np.array([[(case.seconds(), case.floor_seconds()) for case in cases] for _ in range(1 + ROUNDS)])[1:]
    step_s, floor_s = np.moveaxis(seconds / ROUND_STEPS, 0, -1).swapaxes(0, 1).tolist()
    return [{"step_s": steps, "floor_s": floors} for steps, floors in zip(step_s, floor_s, strict=True)]


# --- the report and its table ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    tests: dict[str, list[Result]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for point, result in measured:
        if point["clock"]:
            seconds |= dict(zip(point["variants"], result["seconds"], strict=True))
        else:
            tests.setdefault(point["variants"][0], []).append(result)
    of_this_code = [result for name, variant in variants().items() if not variant.fault for result in tests[name]]
    rows = [row(variant, tests[name], seconds[name]) for name, variant in variants().items()]
    return asked.about_runs(of_this_code) | {"rows": rows}  # a copy with a fault has no commit


def row(variant: Variant, tests: list[Result], seconds: dict[str, list[float]]) -> dict[str, Any]:
    """A variant's figures; of the tests a list over seeds. `claimed_…` is what the variant's own code says."""
    batch = preset(variant.base).replace(**variant.settings).training.batch_size
    step_s, floor_s = (np.array(seconds[name]) for name in ("step_s", "floor_s"))
    low, high = np.percentile(batch / step_s, [25, 75])
    return {
        "base": variant.base,
        "backend": variant.backend,
        "variational": variant.variational,
        "change": variant.change,
        "mutation": variant.mutation,
        **{name: [test["judged"][name] for test in tests] for name in ("log_px", "log_px_se", "elbo")},
        **{f"claimed_{name}": [test["claimed"][name] for test in tests] for name in ("log_px", "elbo")},
        "examples_per_s": float(batch / np.median(step_s)),
        "examples_per_s_iqr": float(high - low),
        "floor_ratio": float(np.median(step_s / floor_s)),
    }


def parts(report: Report) -> list[Part]:
    """A row for each variant: log p(x), and its change against the script as it is: mean over seeds (lowest … highest)."""
    columns = [*LABELS, "log p(x)", "against as it is", "its own code claims", "examples/s (IQR)", "times", "step / floor"]
    as_they_are = {(row["base"], row["variational"]): row for row in report["rows"] if row["change"] == AS_IT_IS}
    rows = []
    for found in report["rows"]:
        script = as_they_are[found["base"], found["variational"]]
        change = np.array(found["log_px"]) - np.array(script["log_px"])
        cells = (
            found["base"].removeprefix("ancestor-"),
            found["variational"],
            found["change"],
            f"{np.mean(found['log_px']):.2f}",
            "" if found is script else ranged(change.mean(), change, "+.2f"),
            f"{np.mean(found['claimed_log_px']):.2f}" if found["mutation"] else "",
            f"{found['examples_per_s']:,.0f} ({found['examples_per_s_iqr']:,.0f})",
            f"{found['examples_per_s'] / script['examples_per_s']:.2f}",
            f"{found['floor_ratio']:.2f}",
        )
        rows.append(cells)
    errors = [se for found in report["rows"] for se in found["log_px_se"]]
    settings = (
        f"{report['dataset']['name']}, {report['steps']:,} steps, {len(report['seeds'])} seeds. log p(x): validation, nats, "
        f"K = {report['samples']:,}, the same {report['images']:,} images for every row, so that their standard error, "
        f"{min(errors):.2f} to {max(errors):.2f}, is common to all; its change is the mean over seeds (lowest … highest). "
        f"Speed: in turns of {ROUND_STEPS} steps in one process a script; faulty code has a process of its own. "
        f"Judged at commit {reports.commits(report['run_commits'])}."
    )
    measured = reports.where(report["environment"], setting="cpu, float32")
    return [Table(columns=columns, rows=rows, left=LABELS), settings, f"{measured}."]
