"""A job is a run that is asked for: its settings, data set and folder, and the names of its own files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import environment, record_names, record_schema
from benchmarks.harness.record_schema import Record
from common import data
from common.config import Config
from common.data import Dataset


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

    def blank(self, *, dataset: Dataset | None) -> Record:
        """The record of a run without a result; where `dataset` is None, the data set's SHA-256 may be None."""
        sha256 = dataset.sha256 if dataset else self.sha256
        return record_schema.blank(
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
        """Whether the run goes on from its own checkpoint, or from one that it kept."""
        own = (self.checkpoint, *kept(self.checkpoint))
        return self.origin is not None and self.origin.resolve() in [path.resolve() for path in own]

    @property
    def timed_on(self) -> str:
        """What decides the run's speed on this machine beside its settings."""
        return environment.timed_on(self.config, threads=self.threads)

    @property
    def record(self) -> Path:
        """The path of the run's record."""
        return record_names.beside(Path(self.results), self._named, record_names.name_of)

    @property
    def checkpoint(self) -> Path:
        """The path of the run's checkpoint, beside the record; runs that differ only in their test share one checkpoint."""
        return record_names.beside(Path(self.results), self._named, record_names.checkpoint_name_of)

    @property
    def _named(self) -> Record:
        """A record that names the job: of images in a file it needs their SHA-256."""
        unread = data.is_file(self.data) and self.sha256 is None
        return self.blank(dataset=self.dataset() if unread else None)


def kept(checkpoint: Path) -> list[Path]:
    """The checkpoints that `Job.keep_checkpoints` kept beside a run's checkpoint, by rising step; [] for none."""
    return sorted(checkpoint.with_suffix(".steps").glob("[!.]*.h5"))
