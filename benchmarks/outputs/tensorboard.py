"""A run's events as a TensorBoard event file, under the same tags in every backend. No framework is imported for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness.events import Event, Heard
from benchmarks.harness.jobs import Job
from benchmarks.harness.packing import unpacked
from common.errors import UserError

# Event → its tags, each with the event's field.
SCALARS = {
    "point": {
        "train/objective": "objective",
        "train/elbo": "elbo",
        "train/learning_rate": "learning_rate",
        "train/kl_weight": "kl_weight",
    },
    "validation": {"validation/elbo": "elbo"},
    "result": {"test/elbo": "elbo", "test/log_px": "log_px"},
}
IMAGES = ("samples", "reconstructions")
FLUSH_SECONDS = 10


def folder_of(job: Job) -> Path:
    """The folder of the run's event files, beside its record."""
    return job.record.with_suffix(".tensorboard")


def package() -> ModuleType:
    """tensorboardX, which imports PyTorch where it can: not here. Raises `UserError` where it isn't installed."""
    hidden = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]
    try:
        import tensorboardX
    except ImportError as error:
        raise UserError(
            "--tensorboard needs the package tensorboardX; `python -m pip install -r environments/extras.txt`."
        ) from error
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


@contextlib.contextmanager
def board(job: Job) -> Iterator[Heard]:
    """Yields the function to call with the run's events; the file is complete when the context ends.

    A run that goes on from its own checkpoint adds a file: TensorBoard drops what an earlier file has of later steps. A run
    that begins anew removes the files of a former run.
    """
    make, goes_on, folder = package().SummaryWriter, job.goes_on, folder_of(job)
    writer: Any = None

    def heard(event: Event) -> None:
        nonlocal writer
        kind = event["kind"]
        if kind == "begin":
            for path in [] if goes_on else folder.glob("events.out.tfevents.*"):
                path.unlink()
            first = {"purge_step": event["step"] + 1} if goes_on else {}
            writer = make(str(folder), flush_secs=FLUSH_SECONDS, **first)
        for tag, field in SCALARS.get(kind, {}).items():
            writer.add_scalar(tag, event[field], event["step"])
        for tag in IMAGES if kind == "images" else ():
            writer.add_images(tag, unpacked(event[tag])[:, None], event["step"])

    try:
        yield heard
    finally:
        if writer:
            writer.close()
