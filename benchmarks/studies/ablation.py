"""The defaults that differ: from each older script's settings, one difference at a time made equal, in nats and in examples/s.

Every variant is a run like any other, a record and a checkpoint in the results folder, on a data set whose test images are a
seeded random choice of the validation images: nothing here looks at the test set.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro

from benchmarks.harness import records, reports, runs
from benchmarks.harness.cli import parse
from benchmarks.harness.copies import Replacement, replaced
from benchmarks.harness.floor import Floor
from benchmarks.harness.presets import preset
from benchmarks.harness.records import Record
from benchmarks.harness.reports import Report
from benchmarks.outputs.older import ANCESTORS
from common import data, protocol, training
from common.clock import timed
from common.config import Config, check
from common.data import Dataset
from common.errors import UserError
from common.files import write_text, write_whole

# What is made equal, a group at a time, and to whose: the two scripts that report a test log p(x) to one another's, the third
# to the faster one's.
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
# Script, family and fault: what the script computes otherwise than this suite, trained with the mutation on.
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


def variants() -> list[Variant]:
    """Each script as it is, with each group of settings made equal, with all of them, and with each fault."""
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
    return result


def flat(config: Config) -> dict[str, Any]:
    """Every setting of a config by its name."""
    values = config.as_dict()
    return {key: value for section in values.values() if isinstance(section, dict) for key, value in section.items()}


def plain(value: Any) -> str:
    """A setting's name or value in a table."""
    return f"{value:.2g}" if isinstance(value, float) else str(value).removeprefix("rmsprop_").replace("_", " ")


# --- the runs ---


@dataclass
class Ablation:
    steps: Annotated[int, tyro.conf.arg(help="Of each run: the first of the script's own, its rate is constant.")] = 1_000
    seed: Annotated[tuple[int, ...], tyro.conf.arg(help="Seeds, a run of every variant each.")] = (0, 1)
    images: Annotated[int, tyro.conf.arg(help="Validation images, a seeded random subset.")] = 500
    samples: Annotated[int, tyro.conf.arg(help="K: importance samples an image.")] = 100
    data: Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits or an .h5 file.")] = "binarized-mnist"
    data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
    results: Annotated[Path, tyro.conf.arg(help="Folder for records, checkpoints and the report.")] = field(
        default_factory=lambda: Path("results/ablation")
    )
    resume: Annotated[bool, tyro.conf.arg(help="Go on with the records and checkpoints in the results folder.")] = False


def main(arguments: list[str]) -> int:
    asked = parse(Ablation, arguments, command="ablation", description="One difference of the older scripts at a time.")
    results = asked.results.resolve()
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    held_out = on_validation(dataset, images=asked.images, path=results / "validation.h5")
    settings = {"data": held_out, "pixels": dataset.pixels, "results": results}
    plan = [(variant, job_of(variant, asked, seed=seed, **settings)) for seed in asked.seed for variant in variants()]
    for _, job in plan[: len(variants())]:
        check(job.config, train_images=len(dataset.train), test_images=len(dataset.test))
    trained = [(variant, *run(variant, job)) for variant, job in plan]
    first = [(variant, job) for variant, job in plan if job.config.training.seed == asked.seed[0]]
    clock = speeds(first, results=results / "speed", resume=asked.resume)
    content = {
        "run_commits": sorted({str(judged["environment"]["commit"]) for _, _, judged in trained}),
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "steps": asked.steps,
        "seeds": list(asked.seed),
        "images": asked.images,
        "samples": asked.samples,
        "rows": [row(variant, trained, clock) for variant in variants()],
    }
    path = reports.write("ablation", content, results)
    report = reports.read("ablation", results)
    assert report is not None
    print(table(report))
    print(f"The report is {path}.", file=sys.stderr)
    return 0


def on_validation(dataset: Dataset, *, images: int, path: Path) -> Path:
    """A data set file with the same training and validation images, whose test images are some of the validation images."""
    chosen = dataset.valid[data.subset(images=images, of=len(dataset.valid), seed=0)]

    def to(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs["image_shape"] = dataset.image_shape
            for split, values in (("train", dataset.train), ("valid", dataset.valid), ("test", chosen)):
                file[split] = values

    write_whole(path, to)
    return path


def job_of(variant: Variant, asked: Ablation, *, seed: int, data: Path, pixels: int, results: Path) -> runs.Job:
    config = preset(variant.base).replace(
        **variant.settings,
        pixels=pixels,
        variational=variant.variational,
        seed=seed,
        steps=asked.steps,
        validation_interval=max(asked.steps // 2, 1),
        samples=asked.samples,
        images=0,
    )
    name = f"{variant.base}+{variant.name}"
    return runs.Job(variant.backend, name, str(data), None, config, str(results / "runs"), asked.resume)


def run(variant: Variant, job: runs.Job) -> tuple[Record, Record]:
    """The record that the variant's own code writes, and what this checkout's code says of the same weights.

    The two are one where the code is. Raises `UserError` where a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = done(job, folder=faulty(variant, Path(folder)))
    if variant.mutation is None:
        return own, own
    # A finished checkpoint, resumed: nothing is trained, and the test is this checkout's.
    judged = dataclasses.replace(job, results=str(Path(job.results).parent / "judged"), resume=True)
    if not job.resume:
        judged.record.unlink(missing_ok=True)  # of other weights
    if not runs.finished(judged):

        def to(path: Path) -> None:
            shutil.copyfile(job.checkpoint, path)

        write_whole(judged.checkpoint, to)
    return own, done(judged, folder=None)


def faulty(variant: Variant, folder: Path) -> Path | None:
    """The folder, filled with the code that the variant trains with, unless that is this checkout's."""
    if variant.mutation is None:
        return None
    replaced(folder, FAULTS[variant.base, variant.variational, variant.fault or ""])
    return folder


def done(job: runs.Job, *, folder: Path | None) -> Record:
    """The job's record, run in a process of its own unless it's there to be resumed."""
    if job.resume and runs.finished(job):
        return records.read(job.record)
    if code := runs.in_process(job, folder=folder):
        raise UserError(f"The run of {job.record.name} ended with code {code}; its message stands above.")
    return records.read(job.record)


# --- the clock ---

Speeds = dict[tuple[str, str, str], dict[str, list[float]]]


def speeds(plan: list[tuple[Variant, runs.Job]], *, results: Path, resume: bool) -> Speeds:
    """Each variant's seconds a step and its floor, a measurement a round. A script's variants take turns in one process."""
    processes: dict[str, list[tuple[Variant, runs.Job]]] = {}
    for variant, job in plan:
        processes.setdefault(variant.mutation or variant.base, []).append((variant, job))
    found: Speeds = {}
    for name, members in processes.items():
        path = results / f"{name}.json"
        configs = [job.config.as_dict() for _, job in members]
        if not (resume and path.exists() and json.loads(path.read_text(encoding="utf-8"))["configs"] == configs):
            with tempfile.TemporaryDirectory() as folder:
                where = faulty(members[0][0], Path(folder))
                command = [sys.executable, "-m", "benchmarks", "ablation-speed", str(path)]
                jobs = json.dumps([job.as_json() for _, job in members])
                if code := subprocess.run(command, input=jobs, text=True, check=False, cwd=where).returncode:
                    raise UserError(f"The clock of {name} ended with code {code}; its message stands above.")
        measured = json.loads(path.read_text(encoding="utf-8"))
        for (variant, _), seconds in zip(members, measured["seconds"], strict=True):
            found[key(variant)] = seconds
    return found


def key(variant: Variant) -> tuple[str, str, str]:
    return variant.base, variant.variational, variant.name


def speed_worker(arguments: list[str]) -> int:
    """In a process of its own: time some steps of every job, a round after another, and write the seconds to a file."""
    (path,) = map(Path, arguments)
    jobs = [runs.Job.from_json(text) for text in json.loads(sys.stdin.read())]
    clocks = [Clock(job) for job in jobs]
    for _ in range(ROUNDS):
        for clock in clocks:
            clock.round()
    seconds = [{"step_s": clock.step_s, "floor_s": clock.floor.seconds} for clock in clocks]
    text = json.dumps({"configs": [job.config.as_dict() for job in jobs], "seconds": seconds})
    write_text(path, text)
    return 0


class Clock:
    """A job from step 0, some steps of training a round and the floor after them."""

    def __init__(self, job: runs.Job):
        dataset = data.load(job.data, data_dir=None)
        backend = protocol.load(job.backend)
        fresh = dataclasses.replace(job, resume=False)
        _, self.session = runs.begin(fresh, backend=backend, dataset=dataset)
        self.config, self.images, self.step = job.config, len(dataset.train), 0
        self.handle = self.session.place(dataset.train)
        self.floor = Floor(backend, job.config, seconds=[])
        self.step_s: list[float] = []
        self.round()  # compiles
        self.step_s.clear()
        self.floor.seconds.clear()

    def round(self) -> None:
        chunk = training.chunk(self.config, images=self.images, first_step=self.step, steps=ROUND_STEPS)
        work = functools.partial(self.session.train, self.handle, **chunk)
        _, seconds = timed(work, synchronize=self.session.synchronize)
        self.step_s.append(seconds / ROUND_STEPS)
        self.step += ROUND_STEPS
        self.floor.measure()


# --- from records to a report and its table ---


def row(variant: Variant, trained: list[tuple[Variant, Record, Record]], clock: Speeds) -> dict[str, Any]:
    """A variant's figures, a list over seeds each; `claimed` is what its own code says, which differs where that is faulty."""
    own, judged = zip(*((own, judged) for found, own, judged in trained if found == variant), strict=True)
    batch = own[0]["config"]["training"]["batch_size"]
    step_s, floor_s = (np.array(clock[key(variant)][name]) for name in ("step_s", "floor_s"))
    low, high = np.percentile(batch / step_s, [25, 75])
    return {
        "base": variant.base,
        "backend": variant.backend,
        "variational": variant.variational,
        "change": variant.change,
        "mutation": variant.mutation,
        "log_px": [record["test"]["log_px"] for record in judged],
        "log_px_se": [record["test"]["log_px_se"] for record in judged],
        "elbo": [record["test"]["elbo"] for record in judged],
        "claimed_log_px": [record["test"]["log_px"] for record in own],
        "claimed_elbo": [record["test"]["elbo"] for record in own],
        "examples_per_s": float(batch / np.median(step_s)),
        "examples_per_s_iqr": float(high - low),
        "floor_ratio": float(np.median(step_s / floor_s)),
    }


def table(report: Report) -> str:
    """A row a variant: log p(x) and its change against the script as it is, mean over seeds and (lowest … highest)."""
    columns = (
        "script | family | change | log p(x) | against as it is | its own code claims | examples/s (IQR) | times | step / floor"
    )
    lines = [f"| {columns} |", "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
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
        lines.append(f"| {' | '.join(cells)} |")
    errors = [se for found in report["rows"] for se in found["log_px_se"]]
    settings = (
        f"{report['dataset']['name']}, {report['steps']:,} steps, {len(report['seeds'])} seeds. log p(x): validation, nats, "
        f"K = {report['samples']:,}, the same {report['images']:,} images for every row, so that their standard error, "
        f"{min(errors):.2f} to {max(errors):.2f}, is common to all; its change is the mean over seeds (lowest … highest). "
        f"Speed: in turns of {ROUND_STEPS} steps in one process a script; faulty code has a process of its own. "
        f"Judged at commit {reports.commits(report['run_commits'])}."
    )
    lines += ["", settings, "", reports.measured(report["environment"], setting="cpu, float32") + "."]
    return "\n".join(lines) + "\n"
