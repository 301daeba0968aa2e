"""The runs of one command: the product of all values of its flags."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import checks, cli
from benchmarks.harness.flags import PATIENCE, Asked
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import flat
from common.config import FAMILIES, check, unread
from common.errors import UserError

NAMES = {"variational": "family"}
PLURALS = {"family": "families"}


@dataclass(frozen=True)
class Grid:
    """Runs, and what to say of them."""

    jobs: list[Job]
    axes: dict[str, int]  # flag of several values → how many
    remarks: list[str]  # on settings that some runs don't read
    test_images: int  # of the data set

    @property
    def size(self) -> str:
        """The number of runs in words: "12 runs: 2 learning rates × 2 families × 3 backends"."""
        product = " × ".join(f"{count} {noun(name, count)}" for name, count in self.axes.items())
        repeats = ", each run once" if math.prod(self.axes.values()) > len(self.jobs) else ""
        return f"{len(self.jobs)} runs: {product}{repeats}" if self.axes else "1 run"


def noun(name: str, count: int) -> str:
    """What one or several values of a flag are called."""
    words = NAMES.get(name, name.replace("_", " "))
    if count == 1:
        return words
    return PLURALS.get(words) or (f"values of {words}" if words.endswith("s") else f"{words}s")


def axes_of(asked: Asked) -> dict[str, Sequence[Any]]:
    """Name → values, the slowest axis first: presets, the settings that are given, seeds, families, backends."""
    own, start = asked.values, asked.start
    settings = {name: own[name] for name in flat(next(iter(asked.presets.values()))) if own.get(name)}
    seeds = {"seed": settings.pop("seed")} if "seed" in settings else {}
    families = settings.pop("variational", None) or ((start.config.model.variational,) if start else FAMILIES)
    elsewhere = interpreters(own["python"])
    if own["backend"]:
        backends = own["backend"]
    elif start:
        backends = (cli.backend_of(start, path=own["from"], elsewhere=elsewhere),)
    else:
        backends = cli.installed(quiet=own["quiet"], elsewhere=elsewhere)
    return {"preset": list(asked.presets), **settings, **seeds, "variational": families, "backend": backends}


def interpreters(given: Iterable[str]) -> dict[str, str]:
    """Backend → the absolute path of its interpreter, of --python's "jax=/path/to/python".

    Raises `UserError` for another form, an unknown backend, a backend named twice, and an interpreter that isn't there.
    """
    found: dict[str, str] = {}
    for text in given:
        backend, equals, path = text.partition("=")
        if not (equals and path):
            raise UserError(f"--python is '{text}'; it must be a backend and its interpreter: jax=/path/to/python.")
        cli.known([backend])
        if backend in found:
            raise UserError(f"--python names {backend} twice; give one interpreter a backend.")
        program = shutil.which(os.path.expanduser(path))
        if program is None:
            raise UserError(f"--python names {path} for {backend}, which isn't a program here; give its interpreter's path.")
        found[backend] = str(Path(program).absolute())  # not resolved: an environment's own is often a link
    return found


def grid_of(asked: Asked) -> Grid:
    """The runs, checked before any training. Raises `UserError` where one can't succeed, or two would be the same."""
    own, axes = asked.values, axes_of(asked)
    pythons = interpreters(own["python"])
    if own["threads"] is not None and own["threads"] < 1:
        raise UserError(f"--threads is {own['threads']}; it must be at least 1.")
    if own["patience"] is not None and own["patience"] < 1:
        raise UserError(f"--patience is {own['patience']}; it must be at least 1 minute.")
    template = Job(
        backend="",
        preset="",
        data=own["data"] or (asked.start.dataset if asked.start else "binarized-digits"),
        data_dir=str(own["data_dir"]) if own["data_dir"] else None,
        config=next(iter(asked.presets.values())),
        results=str(own["results"] or "results"),
        resume=own["resume"],
        start=str(own["from"]) if own["from"] else None,
        keep_checkpoints=own["keep_checkpoints"],
        threads=own["threads"],
        patience=60.0 * (own["patience"] or PATIENCE),
        pictures=own["tensorboard"],
        binarize=own["binarize"] or (asked.start.binarize if asked.start else None),
    )
    dataset = template.dataset()
    jobs: dict[Path, Job] = {}  # by the record's path
    remarks: dict[str, None] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        preset, backend = chosen.pop("preset"), chosen.pop("backend")
        config = asked.presets[preset].replace(**chosen)
        check(config, train_images=len(dataset.train), test_images=len(dataset.test))
        # A setting that isn't read has the preset's value, so that two values don't make two runs of one model.
        for name in chosen:
            if choice := unread(name, config):
                kept = flat(asked.presets[preset])[name]
                config = config.replace(**{name: kept})
                remarks[f"--{name.replace('_', '-')} changes nothing with {choice}: such runs keep {kept}."] = None
        own_job = dataclasses.replace(template, backend=backend, preset=preset, config=config, python=pythons.get(backend))
        job = checks.checked(own_job, dataset=dataset)
        if template.start:
            checks.check_start(job)
        if jobs.get(job.record, job) != job:
            raise UserError(f"Two of the runs would be the same, {job.record.stem}; leave out a value that changes nothing.")
        jobs[job.record] = job
    return Grid(
        jobs=_sharing(jobs.values()),
        axes={name: len(values) for name, values in axes.items() if len(values) > 1},
        remarks=list(remarks),
        test_images=len(dataset.test),
    )


def _sharing(jobs: Iterable[Job]) -> list[Job]:
    """The jobs; each that differs from an earlier one in its test alone goes on from that one's checkpoint."""
    trained = set()
    result = []
    for job in jobs:
        training = (job.checkpoint, job.config.training)
        result.append(dataclasses.replace(job, resume=True) if training in trained else job)
        trained.add(training)
    return result
