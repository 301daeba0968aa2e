"""The older scripts' settings, one difference at a time made equal: what each is worth in nats and in examples/s.

Every variant is a run like any other, a record and a checkpoint in the results folder, on a data set whose test images are a
seeded random choice of the validation images: no variant sees the test set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro

from benchmarks.harness import processes, records, reports, runs
from benchmarks.harness.cases import Bench
from benchmarks.harness.copies import Replacement, replaced
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import flat, preset
from benchmarks.harness.progress import Progress
from benchmarks.harness.records import Record
from benchmarks.harness.reports import Report
from benchmarks.outputs.older import ANCESTORS
from benchmarks.outputs.table import Part, Table
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import checkpoints, config, data, protocol
from common.data import Dataset
from common.files import write_whole

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
# Script, family and fault → the mutation that makes this suite compute what the script computes.
FAULTS = {
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


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A script's preset with one difference."""

    base: str
    name: str
    variational: str
    change: str
    settings: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    @property
    def backend(self) -> str:
        return ANCESTORS[self.base]

    @property
    def mutation(self) -> str | None:
        """The mutation that it trains with."""
        return f"{self.fault}-{self.backend}" if self.fault else None


def variants() -> dict[str, Variant]:
    """Name → variant: each script as it is, with each group of settings made equal, with all of them, and with each fault."""
    result = []
    for base, other in EQUAL_TO.items():
        ours, theirs = flat(preset(base)), flat(preset(other))
        whole: dict[str, Any] = {}
        result.append(Variant(base=base, name=AS_IT_IS, variational="mean-field", change=AS_IT_IS))
        for name, settings in GROUPS.items():
            changed = {key: theirs[key] for key in settings if theirs[key] != ours[key]}
            if changed:
                words = ", ".join(f"{plain(key)} {plain(ours[key])} → {plain(value)}" for key, value in changed.items())
                result.append(Variant(base=base, name=name, variational="mean-field", change=words, settings=changed))
                whole |= changed
        words = f"all of these: {other}'s settings"
        result.append(Variant(base=base, name="all", variational="mean-field", change=words, settings=whole))
    flows = dict.fromkeys(base for base, family, _ in FAULTS if family == "flow")
    result += [Variant(base=base, name=AS_IT_IS, variational="flow", change=AS_IT_IS) for base in flows]
    result += [
        Variant(base=base, name=fault, variational=family, change=f"with {fault.replace('-', ' ')}", fault=fault)
        for base, family, fault in FAULTS
    ]
    return {f"{variant.base} {variant.variational} {variant.name}": variant for variant in result}


def plain(value: Any) -> str:
    """A setting's name or value in a table."""
    return f"{value:.2g}" if isinstance(value, float) else str(value).removeprefix("rmsprop_").replace("_", " ")


# --- the points ---


@dataclass(kw_only=True)
class Arguments(skeleton.DataArguments):
    steps: Annotated[int, tyro.conf.arg(help="Of each run: the first of the script's own, its rate is constant.")] = 1_000
    seed: Annotated[tuple[int, ...], tyro.conf.arg(help="Seeds, a run of every variant each.")] = (0, 1)
    images: Annotated[int, tyro.conf.arg(help="Validation images, a seeded random subset.")] = 500
    samples: Annotated[int, tyro.conf.arg(help="K: importance samples an image.")] = 100


def plan(asked: Arguments) -> dict[str, Point]:
    """Every variant's run, one seed after another; then the clocks: one process for each script, one for each faulty code."""
    dataset = asked.dataset()
    held_out = on_validation(dataset, images=asked.images, path=asked.results / "validation.h5")
    points: dict[str, Point] = {}
    clocks: dict[str, Point] = {}
    for seed, (name, variant) in itertools.product(asked.seed, variants().items()):
        job = job_of(variant, asked, seed=seed, data=held_out, image_shape=dataset.image_shape)
        config.check(job.config, train_images=len(dataset.train), test_images=len(dataset.test))
        points[f"{name.replace(' ', '_')}_{seed}"] = {"variants": [name], "jobs": [job.as_json()], "clock": None}
        if seed == asked.seed[0]:
            clock = variant.mutation or variant.base
            point = clocks.setdefault(f"clock_{clock}", {"variants": [], "jobs": [], "clock": clock})
            point["variants"].append(name)
            point["jobs"].append(job.as_json())
    return points | clocks


def on_validation(dataset: Dataset, *, images: int, path: Path) -> Path:
    """A data set file with the same training and validation images, whose test images are some of the validation images."""
    chosen = dataset.valid[data.subset(images=images, of=len(dataset.valid))]

    def to(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs["image_shape"] = dataset.image_shape
            for split, values in (("train", dataset.train), ("valid", dataset.valid), ("test", chosen)):
                file[split] = values

    write_whole(path, to)
    return path


def job_of(variant: Variant, asked: Arguments, *, seed: int, data: Path, image_shape: tuple[int, int]) -> runs.Job:
    settings = preset(variant.base).replace(
        **variant.settings,
        image_shape=image_shape,
        variational=variant.variational,
        seed=seed,
        steps=asked.steps,
        validation_interval=max(asked.steps // 2, 1),
        samples=asked.samples,
        images=0,
    )
    name = f"{variant.base}+{variant.name}"
    return runs.Job(variant.backend, name, str(data), None, settings, str(asked.results / "runs"), resume=False)


def run(point: Point) -> Result:
    """The figures of a clock, see `clock`; or the tests of a run: `claimed` by its own code, `judged` by this checkout's.

    Raises `UserError` where a process fails.
    """
    variant = variants()[point["variants"][0]]
    with code_of(variant) as folder:
        if point["clock"]:
            title = f"the clock of {point['clock']}"
            return {"seconds": processes.ask(f"{__name__}:clock", point["jobs"], title=title, folder=folder or ROOT)}
        job = dataclasses.replace(runs.Job.from_json(point["jobs"][0]), resume=point["resume"])
        own = done(job, folder=folder)
    judged = own["test"]
    if variant.mutation:
        judged = processes.ask(f"{__name__}:judged", job.as_json(), title=f"the test of {job.checkpoint.name}")
    return {"claimed": own["test"], "judged": judged, "commit": str(own["environment"]["commit"])}


@contextlib.contextmanager
def code_of(variant: Variant) -> Iterator[Path | None]:
    """A folder with the code that the variant trains with; None where that is this checkout's."""
    if variant.mutation is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        replaced(Path(folder), FAULTS[variant.base, variant.variational, variant.fault or ""])
        yield Path(folder)


def done(job: runs.Job, *, folder: Path | None) -> Record:
    """The job's record; the job runs in a process of its own unless its record is there and may be resumed."""
    if job.resume and runs.finished(job):
        return records.read(job.record)
    if code := runs.in_process(job, folder=folder):
        raise processes.ProcessError(job.record.name, code)
    return records.read(job.record)


def judged(text: str) -> dict[str, Any]:
    """The test of a job's checkpoint, by this checkout's code."""
    job = runs.Job.from_json(text)
    estimates = runs.evaluate(
        protocol.load(job.backend),
        checkpoints.load(job.checkpoint).selected(),
        config=job.config,
        dataset=data.load(job.data, data_dir=None),
        progress=Progress(job.checkpoint.stem),
    )
    return dataclasses.asdict(estimates)


def clock(jobs: list[str]) -> list[dict[str, list[float]]]:
    """Seconds of each job's training step and of its products, one measurement a round; the jobs take turns in a process."""
    cases = []
    for text in jobs:
        job = runs.Job.from_json(text)
        bench = Bench(job.backend, job.config.model.variational, device=job.config.device, settings=job.config)
        cases.append(bench.case("train", job.config.training.batch_size, steps=ROUND_STEPS))
    found: list[dict[str, list[float]]] = [{"step_s": [], "floor_s": []} for _ in cases]
    for number in range(1 + ROUNDS):
        for case, figures in zip(cases, found, strict=True):
            step_s, floor_s = case.seconds() / case.steps, case.floor_seconds() / case.steps
            if number:  # the first round compiles
                figures["step_s"].append(step_s)
                figures["floor_s"].append(floor_s)
    return found


# --- the report and its table ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    dataset = asked.dataset()
    tests: dict[str, list[Result]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for point, result in measured:
        if point["clock"]:
            seconds |= dict(zip(point["variants"], result["seconds"], strict=True))
        else:
            tests.setdefault(point["variants"][0], []).append(result)
    of_this_code = [name for name, variant in variants().items() if not variant.mutation]  # a faulty copy has no commit
    return {
        "run_commits": sorted({result["commit"] for name in of_this_code for result in tests[name]}),
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "steps": asked.steps,
        "seeds": list(asked.seed),
        "images": asked.images,
        "samples": asked.samples,
        "rows": [row(variant, tests[name], seconds[name]) for name, variant in variants().items()],
    }


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
    rows = []
    base: dict[tuple[str, str], dict[str, Any]] = {}
    for found in report["rows"]:
        family = (found["base"], found["variational"])
        if found["change"] == AS_IT_IS:
            base[family] = found
        reference = base[family]
        change = np.array(found["log_px"]) - np.array(reference["log_px"])
        cells = (
            found["base"].removeprefix("ancestor-"),
            found["variational"],
            found["change"],
            f"{np.mean(found['log_px']):.2f}",
            "" if found is reference else f"{change.mean():+.2f} ({change.min():+.2f} … {change.max():+.2f})",
            f"{np.mean(found['claimed_log_px']):.2f}" if found["mutation"] else "",
            f"{found['examples_per_s']:,.0f} ({found['examples_per_s_iqr']:,.0f})",
            f"{found['examples_per_s'] / reference['examples_per_s']:.2f}",
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
