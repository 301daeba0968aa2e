"""The command that a page shows makes the record's run again; the page is written whole or not at all."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import command_line, flags, looks, presets, record_names, record_schema, records, threads
from benchmarks.harness.grid import grid_of
from benchmarks.harness.jobs import Job
from benchmarks.harness.record_schema import Record
from common.config import Config
from common.data import Dataset
from common.errors import UserError
from common.files import write_bytes

COMMITTED = records.read_all(records.RECORDS)


def asked(command: str, folder: Path) -> list[Job]:
    """The jobs of a command, by the parser of `run`."""
    python, m, module, name, *arguments = shlex.split(command)
    assert (python, m, module, name) == ("python", "-m", "benchmarks", "run")
    return grid_of(flags.asked_of([*arguments, "--results", str(folder)])).jobs


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data sets' sizes and shapes alone."""

    def dataset(job: Job) -> Dataset:
        shape = (28, 28) if job.data == "binarized-mnist" else (8, 8)
        images = np.zeros((1000, shape[0] * shape[1]), np.uint8)
        return Dataset(name=job.data, sha256="ab", train=images, valid=images, test=images, image_shape=shape)

    monkeypatch.setattr(Job, "dataset", dataset)


@pytest.mark.parametrize("made", COMMITTED, ids=record_names.name_of)
def test_a_records_command_has_the_records_settings(made: Record, tmp_path: Path) -> None:
    (job,) = asked(command_line.of(made), tmp_path)
    assert presets.differing(Config.from_dict(made["config"]), job.config) == {}
    assert (job.backend, job.preset, job.data) == (made["backend"], made["preset"], made["dataset"]["name"])


def test_changed_settings_of_every_kind_are_flags(tmp_path: Path) -> None:
    settings = {"steps": 7, "learning_rate": 1e-4, "data_bias": False, "rmsprop_centered": True, "optimizer": "rmsprop"}
    config = presets.QUICK.replace(variational="flow", dtype="float64", **settings)
    made = record_schema.blank(config, backend="jax", dataset_name="binarized-digits", dataset_sha256=None, preset="quick")
    (job,) = asked(command_line.of(made), tmp_path)
    assert presets.flat(job.config) == presets.flat(config.replace(image_shape=(8, 8)))
    assert job.threads is None
    assert [job.config.training.seed for job in asked(command_line.of(made, seeds=[3, 4]), tmp_path)] == [3, 4]


def test_the_threads_of_a_run_are_a_flag(tmp_path: Path) -> None:
    variables = threads.variables(2, disturbed=False)
    made = record_schema.blank(
        presets.QUICK, backend="jax", dataset_name="binarized-digits", dataset_sha256=None, preset="quick"
    )
    made["environment"]["threads"] = {"cores": 2, "variables": variables}
    (job,) = asked(command_line.of(made), tmp_path)
    assert threads.variables(job.threads, disturbed=False) == variables


def test_a_data_sets_name_is_one_word_of_the_shell() -> None:
    made = record_schema.blank(
        presets.QUICK, backend="jax", dataset_name="my data/$(x).h5", dataset_sha256=None, preset="quick"
    )
    assert shlex.split(command_line.of(made))[-1] == "my data/$(x).h5"


def test_a_folder_without_records_is_an_error_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "has no record" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_looked_at_has_its_reason_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, **_: Any) -> looks.Look:
        raise UserError(f"{path.name} <has> gone bad.")

    made = COMMITTED[-1]
    records.write(made, tmp_path)
    write_bytes(tmp_path / record_names.checkpoint_name_of(made), b"")
    monkeypatch.setattr(looks, "of", refused)
    assert main(["report", str(tmp_path)]) == 0
    assert "&lt;has&gt; gone bad." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_two_files_of_one_record_are_two_rows(tmp_path: Path) -> None:
    of: dict[str, Any] = {"backend": "jax", "dataset_name": "binarized-digits", "dataset_sha256": None, "preset": "quick"}
    path = records.write(record_schema.blank(presets.QUICK, **of), tmp_path)
    (copy := tmp_path / "before.json").write_bytes(path.read_bytes())
    assert main(["report", str(path), str(copy), "--output", str(tmp_path / "page.html")]) == 0
    assert str(copy) in (tmp_path / "page.html").read_text(encoding="utf-8"), "its row in the page's table for downloads"
