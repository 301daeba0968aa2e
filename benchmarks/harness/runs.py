"""One run, from a job to a record, in a process of its own; and the parent's side of that process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.harness import (
    cores,
    environment,
    events,
    locks,
    memory,
    presets,
    processes,
    ranks,
    records,
    spread,
    stopping,
    telling,
    threads,
)
from benchmarks.harness.cli import known, writable
from benchmarks.harness.events import Heard
from benchmarks.harness.floor import Floor
from benchmarks.harness.progress import Progress
from common import checkpoints, data, estimators, parameters, protocol, training
from common.checkpoints import Checkpoint
from common.config import Config, Training, check
from common.data import Dataset
from common.errors import DiskError, UserError, printable
from common.noise import TEST, seed_for
from common.parameters import State
from common.world import World

RunState = Literal["new", "done", "resumable"]
# What `in_process` returns of a job without a record, where its process told why; a process's own exit codes are below 256.
# A `UserError`; a framework that can't be imported; no sign of life; a results folder or a disk that can't be written.
REFUSED, UNAVAILABLE, SILENT, UNWRITABLE = 1000, 1001, 1002, 1003
LOST = 1004  # an engine's end of a job whose machine was lost, and the retries too


@dataclass(frozen=True)
class Job:
    """A run's settings, data set and folder."""

    backend: str
    preset: str
    data: str
    data_dir: str | None
    config: Config
    results: str
    resume: bool  # go on from the job's own checkpoint where there is one
    start: str | None = None  # the path of a checkpoint of any backend to go on from
    binarize: str | None = None  # how grey images become binary
    keep_checkpoints: bool = False  # each validation's checkpoint, in the files of `kept`
    pictures: bool = False  # tell the listener images at each validation
    threads: int | None = None  # of the framework; its own choice where None
    sha256: str | None = None  # of the data set, where it has been read
    patience: float | None = None  # seconds without a sign of life after which the run's process is ended; None for ever
    python: str | None = None  # the interpreter of the run's process; that of the command where None
    runnable: float | None = None  # threads that other programs kept running before the run's process; None where unknown

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        return cls(**values | {"config": Config.from_dict(values["config"])})

    def dataset(self) -> Dataset:
        return data.load(self.data, data_dir=Path(self.data_dir) if self.data_dir else None, binarize=self.binarize)

    def blank(self, *, dataset: Dataset | None) -> records.Record:
        """The record of a run without a result; where `dataset` is None, the data set's SHA-256 may be None."""
        sha256 = dataset.sha256 if dataset else self.sha256
        return records.blank(
            self.config,
            backend=self.backend,
            dataset_name=data.name_of(self.data, sha256),
            dataset_sha256=sha256,
            preset=self.preset,
            binarize=self.binarize,
        )

    @property
    def origin(self) -> Path | None:
        """The checkpoint that the run goes on from; None where the run begins anew."""
        if self.resume and self.checkpoint.exists():
            return self.checkpoint
        return Path(self.start) if self.start else None

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on from its own checkpoint."""
        return self.origin is not None and self.origin.resolve() == self.checkpoint.resolve()

    @property
    def record(self) -> Path:
        """The path of the run's record."""
        return records.beside(Path(self.results), self._named, records.name_of)

    @property
    def checkpoint(self) -> Path:
        """The path of the run's checkpoint, beside the record; runs that differ only in their test share one checkpoint."""
        return records.beside(Path(self.results), self._named, records.checkpoint_name_of)

    @property
    def _named(self) -> records.Record:
        """A record that names the job: of images in a file it needs their SHA-256."""
        unread = data.is_file(self.data) and self.sha256 is None
        return self.blank(dataset=self.dataset() if unread else None)


def kept(checkpoint: Path) -> list[Path]:
    """The checkpoints that `Job.keep_checkpoints` kept beside a run's checkpoint, by rising step; [] for none."""
    return sorted(checkpoint.with_suffix(".steps").glob("[!.]*.h5"))


def in_process(job: Job, *, folder: Path | None = None, heard: Heard | None = None) -> int:
    """Run the job in a process of its own, so that no framework's threads, memory or imports touch another's.

    `folder`: the checkout whose code runs; the current folder where None. `heard` is called with each event of the process,
    which then prints nothing itself. A process that tells nothing for `job.patience` seconds is ended. Returns 0 with a record
    at `job.record`; else REFUSED, UNAVAILABLE, SILENT, UNWRITABLE, or the exit code of a process that ended without a word.
    """
    target, where = f"{__name__}:worker", folder or Path.cwd()
    job = dataclasses.replace(job, runnable=environment.runnable())
    devices, count = job.config.training.devices, job.threads
    crowded = environment.crowded(job.runnable, environment.machine()) or devices > cores.count()
    if devices > 1 and job.config.device == "cpu":
        count = count or max(1, cores.count() // devices)  # a process each, on the same cores
    variables = threads.variables(count, disturbed=crowded)
    if job.python:  # its environment may not know this checkout
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(environment.ROOT), os.environ.get("PYTHONPATH"))))
    options: dict[str, Any] = {"title": job.record.name, "folder": where, "python": job.python, "variables": variables}
    try:
        return int(processes.ask(target, job.as_json(), **options, heard=heard, patience=job.patience))
    except processes.SilentError:
        return SILENT
    except processes.ProcessError as error:
        return error.code


def worker(text: str) -> int:
    """Run a job of `as_json`, in the process of `in_process`. Returns 0, or REFUSED, UNAVAILABLE or UNWRITABLE, with the
    reason on stderr.

    A job that another process runs is waited for, and not run again.
    """
    job = Job.from_json(text)
    try:
        if job.resume and finished(job):
            return 0
        os.environ |= card(job, rank=0)
        began = time.perf_counter()
        try:
            protocol.load(job.backend)
        except UserError as error:
            print(error, file=sys.stderr)
            return UNAVAILABLE
        import_s = time.perf_counter() - began
        with locks.held(job.checkpoint.with_name(f".{job.checkpoint.stem}.lock")) as waited:
            if not ((waited or job.resume) and finished(job)):  # since the first look at it, too
                run(job, import_s=import_s)
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return UNWRITABLE if isinstance(error, DiskError) else REFUSED
    return 0


def card(job: Job, *, rank: int) -> dict[str, str]:
    """The environment variable by which the process of a rank sees its card alone; {} on a CPU, and for a run on one device."""
    if job.config.device != "cuda" or job.config.training.devices == 1:
        return {}
    return {environment.CARDS: environment.cards()[rank]}


def follow(text: str, world: World, stop: Callable[[], bool]) -> None:
    """Train a job of `as_json` as a rank above 0: the steps are rank 0's. Nothing is written or told."""
    job = Job.from_json(text)
    dataset, backend = job.dataset(), protocol.load(job.backend)
    backend.join(world, device=job.config.device)
    checkpoint, session = begin(job, backend=backend, dataset=dataset)
    with contextlib.suppress(training.DivergedError):  # rank 0 says so
        training.train(
            session,
            checkpoint,
            dataset=dataset,
            save=lambda checkpoint: None,
            report=lambda steps, elbo: None,
            between=lambda: None,
            stop=stop,
        )
    backend.leave()


def evaluate(backend: protocol.Backend, selected: State, **arguments: Any) -> estimators.Estimates:
    """ELBO and log p(x) of the `selected` parameters on the config's test images; the arguments are those of `scores`.

    Raises `UserError` where a number isn't finite.
    """
    of_images = scores(backend, selected, **arguments)
    estimators.refuse_divergence(of_images)
    return estimators.summary(of_images)


def scores(
    backend: protocol.Backend,
    selected: State,
    *,
    config: Config,
    dataset: Dataset,
    progress: Progress,
    split: Literal["train", "test"] = "test",
) -> estimators.PerImage:
    """As `evaluate`, for each image of the split."""
    scorer, of_split = backend.score(config, selected), getattr(dataset, split)
    images = data.subset(images=config.evaluation.images, of=len(of_split))
    with progress.phase(split, total=len(images), unit="images") as advance:
        return estimators.per_image(
            scorer,
            scorer.place(of_split),
            images=images,
            samples=config.evaluation.samples,
            seed=seed_for(config.training.seed, TEST),
            image_batch=config.evaluation.image_batch,
            sample_block=config.evaluation.sample_block,
            report=lambda done: advance(done, None),
        )


def dataset_of(checkpoint: Checkpoint, *, path: Path, places: Sequence[str], data_dir: Path | None) -> Dataset:
    """The data set of a checkpoint's run, known by its SHA-256: at one of `places`, or where it was if there are none.

    Raises `UserError` where none of them holds it.
    """
    for place in (looked_at := places or [checkpoint.dataset]):
        dataset = data.load(place, data_dir=data_dir, binarize=checkpoint.binarize)
        if dataset.sha256 == checkpoint.sha256:
            return dataset
    raise UserError(f"{path} was trained on other data than {' or '.join(looked_at)} holds; give its images as --data.")


def begin(job: Job, *, backend: protocol.Backend, dataset: Dataset) -> tuple[Checkpoint, protocol.Session]:
    """(the run's checkpoint: new at step 0, or read from a file; a session with the checkpoint's state).

    Raises `UserError` as `resumed` does.
    """
    config = job.config
    if origin := job.origin:
        checkpoint = resumed(job, origin, dataset=dataset)
    else:
        initial = parameters.initial_parameters(
            config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(dataset.train)
        )
        state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
        checkpoint = Checkpoint(config, job.backend, job.preset, dataset.name, dataset.sha256, state, binarize=dataset.binarize)
    return checkpoint, backend.create(config, checkpoint.state)


def train(
    job: Job,
    session: protocol.Session,
    checkpoint: Checkpoint,
    *,
    dataset: Dataset,
    title: str,
    keep: Callable[[Checkpoint], None],
    between: Callable[[], None],
    until: int | None = None,
    agreed: Callable[[bool], bool] = lambda wish: wish,
) -> None:
    """`training.train` with its progress and events; `keep` gets each checkpoint before `job.checkpoint` is written.

    `agreed` gets this process's wish to stop before each chunk, and tells it to the others of a run on several devices.

    On Ctrl-C, SIGTERM and SIGHUP: saves a checkpoint of the step reached, says so and raises KeyboardInterrupt.
    On SIGUSR1: saves it, says so and goes on.
    """
    settings, first_step = job.config.training, int(checkpoint.state["step"])
    steps = until or settings.steps
    told = telling.Curve(checkpoint)

    def saved(checkpoint: Checkpoint) -> None:
        keep(checkpoint)
        checkpoints.save(checkpoint, job.checkpoint)
        told.tell()
        if job.pictures and validated(checkpoint):
            telling.images(session, checkpoint, dataset=dataset)

    def after_chunk() -> None:
        between()
        if stopping.save_asked():
            save_step(job, session, checkpoint, title=title)
        told.tell()

    with (
        Progress(title).phase("train", total=steps, unit="steps", rows=settings.batch_size) as advance,
        stopping.deferred() as stop,
    ):
        advance(first_step, None)
        training.train(
            session,
            checkpoint,
            dataset=dataset,
            save=saved,
            report=advance,
            between=after_chunk,
            until=until,
            stop=lambda: agreed(stop()),
        )
    if stop():
        say_stopped(job, title=title, step=int(checkpoint.state["step"]), steps=steps)
        raise KeyboardInterrupt


def save_step(job: Job, session: protocol.Session, checkpoint: Checkpoint, *, title: str) -> None:
    """Save the state of the step reached. Raises `DivergedError` where it isn't finite; the last checkpoint then stays."""
    state = session.state()
    step = int(state["step"])
    training.refuse_divergence(state, steps=range(step, step + 1), saved=int(checkpoint.state["step"]))
    checkpoint.state = state
    checkpoints.save(checkpoint, job.checkpoint)
    print(f"{title}: saved step {step:,} in {job.checkpoint}, and goes on.", file=sys.stderr, flush=True)


def say_stopped(job: Job, *, title: str, step: int, steps: int) -> None:
    """Say on stderr where the state of a stopped run is; nothing where it has trained no step."""
    if step:
        print(f"{title}: stopped at step {step:,} of {steps:,}, saved in {job.checkpoint}.", file=sys.stderr, flush=True)


def keeper(job: Job, checkpoint: Checkpoint) -> Callable[[Checkpoint], None]:
    """The function that keeps a copy of each validation's checkpoint, in the files of `kept`, the one to begin with too.

    A run that begins anew removes the files of a former run. A run that goes on keeps copies where there are some already.
    """
    for path in [] if job.goes_on else kept(job.checkpoint):
        path.unlink()
    wanted = job.keep_checkpoints or bool(kept(job.checkpoint))

    def keep(checkpoint: Checkpoint) -> None:
        if wanted and (validated(checkpoint) or not kept(job.checkpoint)):
            step = int(checkpoint.state["step"])
            checkpoints.save(checkpoint, job.checkpoint.with_suffix(".steps") / f"{step:08d}.h5")

    keep(checkpoint)
    return keep


def validated(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is that of a validation, and not of a run that was stopped between two."""
    return checkpoint.history.get("valid_step", [])[-1:] == [int(checkpoint.state["step"])]


def run(job: Job, *, import_s: float) -> records.Record:
    """Train, test, write the record and return it; `import_s`: seconds that the framework's import took.

    Raises `UserError` for a checkpoint of other settings, as `refuse_overwriting` does, and where the data set, the backend or
    the disk is unusable.
    """
    began = time.perf_counter()
    config = job.config
    dataset = job.dataset()
    backend = protocol.load(job.backend)
    record = job.blank(dataset=dataset) | {"environment": environment.describe(config.device)}
    record["environment"]["runnable"] = job.runnable
    title = f"{job.backend} {config.model.variational}"
    devices = config.training.devices
    others: dict[str, Any] = {"devices": devices, "title": title, "variables": lambda rank: card(job, rank=rank)}
    with ranks.led(f"{__name__}:follow", job.as_json(), **others) as lead:
        if devices > 1:
            backend.join(lead.world, device=config.device)
        checkpoint, session = begin(job, backend=backend, dataset=dataset)
        setup_s = time.perf_counter() - began
        refuse_overwriting(job, dataset=dataset)
        probes = protocol.probes(job.backend)
        floor = Floor(probes, config, seconds=checkpoint.history.setdefault("floor_seconds", []))
        first_step = int(checkpoint.state["step"])
        events.tell("begin", step=first_step, steps=config.training.steps)
        keep = keeper(job, checkpoint)
        record["environment"]["round_trip_ns"] = cores.gathered()
        own: dict[str, Any] = {"title": title, "keep": keep, "between": floor.measure, "agreed": lead.stops}
        try:
            train(job, session, checkpoint, dataset=dataset, **own)
        except training.DivergedError as error:
            record |= {"status": "failed", "reason": str(error)}
        if devices > 1:
            backend.leave()
    if record["status"] == "failed":
        records.write(record, Path(job.results))
        return record
    record["environment"]["round_trip_after_ns"] = cores.round_trip()
    began = time.perf_counter()
    try:
        of_images = scores(backend, checkpoint.selected(), config=config, dataset=dataset, progress=Progress(title))
    except KeyboardInterrupt:
        say_stopped(job, title=title, step=config.training.steps, steps=config.training.steps)
        raise
    test = estimators.summary(of_images)
    events.tell("result", step=checkpoint.selected_step(), elbo=test.elbo, log_px=test.log_px)
    record |= {
        "status": "ok",
        "reason": None,
        "trained": checkpoint.trained(int(checkpoint.state["step"])),
        "parameters": parameters.count(config.model),
        "curve": {
            column: [int(v) if column.endswith("step") else v for v in checkpoint.history[column]]
            for column in checkpoints.CURVE
        },
        "timing": timing(checkpoint.history, config.training)
        | {"programs_compiled": None if first_step else probes.programs_compiled(), "uncompiled": probes.uncompiled()}
        | {"product_library": probes.product_library()}
        | {"import_s": import_s, "setup_s": setup_s, "evaluation_s": time.perf_counter() - began},
        "peak_memory_bytes": memory.peak(),
        "test": dataclasses.asdict(test)
        | {"by_samples": estimators.by_samples(of_images)}
        | {"warning": estimators.warning(of_images, highest=dataset.highest_log_px)},
    }
    record["environment"] = environment.ended(record["environment"])
    record["environment"]["threads"]["process"] = environment.own_threads()
    arrays = {name: getattr(of_images, name) for name in records.PER_IMAGE}
    record["test"]["per_image"] = records.write_per_image(arrays, record, folder=Path(job.results))
    records.write(record, Path(job.results))
    return record


def finished(job: Job) -> bool:
    """Whether the job's record has a result of the job's settings and data."""
    if not job.record.exists():
        return False
    record = records.read(job.record)
    return record["status"] == "ok" and _difference(job, _of_record(record), dataset=job.dataset()) is None


Origin = tuple[Config, str, str]  # a result's settings, its data set's title and SHA-256


def _of_record(record: records.Record) -> Origin:
    given = record["dataset"]
    return Config.from_dict(record["config"]), records.titled(given["name"], given["binarize"]), given["sha256"]


def _of_checkpoint(checkpoint: Checkpoint) -> Origin:
    return checkpoint.config, records.titled(checkpoint.dataset, checkpoint.binarize), checkpoint.sha256


def _difference(job: Job, origin: Origin, *, dataset: Dataset, may_change: tuple[str, ...] = ()) -> str | None:
    """The first difference of a result's origin from the job and its data set, in words: "steps 60, not 80"."""
    config, name, sha256 = origin
    theirs = presets.flat(config)
    for setting, value in presets.differing(job.config, config).items():
        if setting not in may_change:
            return f"{setting} {theirs[setting]}, not {value}"
    return None if sha256 == dataset.sha256 else f"data set {name}, not {records.titled(dataset.name, dataset.binarize)}"


def resumed(job: Job, path: Path, *, dataset: Dataset) -> Checkpoint:
    """The checkpoint of a file, for the job's backend to go on from. Raises `UserError` where its settings or data are others.

    The settings of `presets.MAY_CHANGE` may differ. With a constant learning rate `steps` may too, if the checkpoint lies on a
    validation step.
    """
    checkpoint = checkpoints.load(path)
    steps, done = job.config.training.steps, int(checkpoint.state["step"])
    may_change = presets.MAY_CHANGE
    if job.config.optimizer.schedule == "constant" and steps >= done and done % job.config.training.validation_interval == 0:
        may_change += ("steps",)
    if difference := _difference(job, _of_checkpoint(checkpoint), dataset=dataset, may_change=may_change):
        raise UserError(
            f"The checkpoint {path} has {difference}; "
            "go on with the checkpoint's settings, or leave out --resume or --from and begin anew."
        )
    if checkpoint.backend != job.backend:
        if done == steps:
            raise UserError(
                f"The checkpoint {path} is at its last step, {done}: {job.backend} has nothing to train; "
                f"`python -m benchmarks evaluate {path} --backend {job.backend}` tests the checkpoint."
            )
        checkpoint.earlier.append((checkpoint.backend, done))
        # Times of another backend's chunks are dropped.
        curve = (*checkpoints.CURVE, *checkpoints.PENDING)
        checkpoint.history = {name: column for name, column in checkpoint.history.items() if name in curve}
    return dataclasses.replace(checkpoint, config=job.config, backend=job.backend)


def check_start(job: Job) -> None:
    """Raises `UserError` where the job can't go on from the checkpoint `job.start`, or would overwrite another run's."""
    assert job.start is not None
    own = job.checkpoint
    if job.resume:
        raise UserError("--from names one checkpoint, --resume those of the results folder; leave out one of the two.")
    if own.exists() and own.resolve() != Path(job.start).resolve():
        raise UserError(f"{own} exists and is another run's; go on from {own}, or give another folder as --results.")
    resumed(job, Path(job.start), dataset=job.dataset())


def timing(history: dict[str, list[float]], settings: Training) -> dict[str, Any]:
    """A record's `timing` from the history's chunks; values are None where too few chunks were timed.

    The median is over chunks of the run's full length: a resumed run's earlier chunks can have other lengths. A process's first
    chunk of a length compiles: the median leaves it out, and compile_s sums its seconds beyond a median chunk of as many steps.
    """
    steps, seconds, first = (np.array(history[column]) for column in checkpoints.CLOCK)
    full = min(settings.chunk, settings.log_interval, settings.validation_interval, settings.steps)
    steady = (first == 0) & (steps == full)
    result: dict[str, Any] = dict.fromkeys(records.TIMING)
    result |= {"placement_s": float(sum(history["placement_seconds"])), "first_chunk_s": float(seconds[0])}
    if not steady.any():
        return result
    step_s = seconds[steady] / steps[steady]
    compile_s = float(np.maximum(seconds - np.median(step_s) * steps, 0)[first == 1].sum())
    rates = settings.batch_size / step_s
    low, high = np.percentile(rates, [25, 75])
    result |= {
        "compile_s": compile_s,
        "steady_s": float(seconds.sum()) - compile_s,
        "examples_per_s": settings.batch_size / float(np.median(step_s)),
        "examples_per_s_iqr": float(high - low) if steady.sum() > 1 else None,  # one chunk has no spread
        "chunks": int(steady.sum()),
    }
    result["warning"] = spread.warning(median=result["examples_per_s"], iqr=result["examples_per_s_iqr"])
    if history["floor_seconds"]:
        floor_s = float(np.median(history["floor_seconds"]))
        result |= {"floor_s": floor_s, "floor_ratio": float(np.median(step_s)) / floor_s}
    return result


def checked(job: Job, *, dataset: Dataset | None = None) -> Job:
    """The job with its data set's image shape and SHA-256. Called before any training.

    Raises `UserError` where the run can't succeed.
    That is: settings that don't fit one another or the data set, an unknown backend, a results folder that can't be written,
    and results that `refuse_overwriting` protects. `dataset`: the job's, where the caller has read it.
    """
    dataset = dataset or job.dataset()
    shaped = dataclasses.replace(job, config=job.config.replace(image_shape=dataset.image_shape), sha256=dataset.sha256)
    check(shaped.config, train_images=len(dataset.train), test_images=len(dataset.test))
    enough_cards(shaped.config)
    known([job.backend])
    writable(Path(job.results))
    refuse_overwriting(shaped, dataset=dataset)
    return shaped


def enough_cards(config: Config) -> None:
    """Raises `UserError` where the machine has fewer cards than a run on several has devices; a CPU takes any number."""
    devices, found = config.training.devices, len(environment.cards()) if config.device == "cuda" else None
    if found is not None and 1 < devices > found:
        raise UserError(
            f"--devices is {devices}, but this machine has {found} NVIDIA cards; give at most as many as there are."
        )


def state(job: Job) -> RunState:
    """What the results folder has of a job that `checked` has accepted."""
    if job.record.exists() and records.read(job.record)["status"] == "ok":
        return "done"
    return "resumable" if job.checkpoint.exists() else "new"


def refuse_again(job: Job) -> None:
    """Raises `UserError` where the job would replace its own result, or begin anew over its own checkpoint."""
    found = state(job)
    if job.resume or found == "new" or (found == "resumable" and job.start):  # `check_start` has looked at the checkpoint
        return
    there = f"{job.record} is there already" if found == "done" else f"{job.checkpoint} has this model's training"
    resume = "keep it and run the rest" if found == "done" else "go on from it"
    first = "give" if job.start else f"add --resume to {resume} (with make: ARGS=--resume), or"
    raise UserError(f"{there}: {first} --results FOLDER to run it anew, in another folder.")


def refuse_overwriting(job: Job, *, dataset: Dataset) -> None:
    """Raises `UserError` where the job would overwrite a record or checkpoint of other settings or data, or an unreadable one.

    A file's name says the preset and the changed settings, but older names don't, and presets and data files change.
    """
    path, difference = job.record, None
    if path.exists() and (old := records.read(path))["status"] != "not-run":
        difference = _difference(job, _of_record(old), dataset=dataset)
    if difference is None and job.checkpoint.exists():
        path = job.checkpoint
        try:
            origin = _of_checkpoint(checkpoints.load(path))
        except UserError as error:
            raise UserError(
                f"The run would overwrite {path}, which can't be read ({str(error).rstrip('.')}); "
                "move the file away, or give another folder as --results."
            ) from error
        difference = _difference(job, origin, dataset=dataset, may_change=presets.MAY_CHANGE)
    if difference:
        raise UserError(f"{path} is another run's, with {difference}; give another folder as --results, or move {path} away.")
