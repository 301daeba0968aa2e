"""A row agrees when its test log p(x) is within the tolerance on the same test, and not otherwise."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.gates.reproduce import MOVING, SETTLED, compare, reproduce, tolerance
from benchmarks.harness import record_schema, records
from benchmarks.harness.record_schema import Record
from common.config import Config
from common.errors import UserError


def record(backend: str = "jax", log_px: float | None = -88.5) -> Record:
    made = record_schema.blank(
        Config(), backend=backend, dataset_name="binarized-mnist", dataset_sha256="ab" * 32, preset="standard"
    )
    made |= {"status": "ok", "reason": None}
    made["environment"] |= {"commit": "a" * 40, "dirty": False}  # a published row's
    made["timing"]["examples_per_s"] = 7654.0
    made["test"] |= {"log_px": log_px, "importance_samples": 1000, "images": 10_000}
    return made


def changed(old: Record, section: str, key: str, value: Any) -> Record:
    new = copy.deepcopy(old)
    new[section][key] = value
    return new


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_tolerance_decides(sign: int) -> None:
    allowed = tolerance(record())
    assert compare(record(), record(log_px=-88.5 + sign * 0.9 * allowed)).agrees
    worse = compare(record(), record(log_px=-88.5 + sign * 1.1 * allowed))
    assert (worse.agrees, worse.verdict) == (False, "differs")
    assert worse.difference == pytest.approx(sign * 1.1 * allowed)
    assert compare(record(), record()).verdict == "identical"


def test_speed_is_not_judged() -> None:
    assert compare(record(), changed(record(), "timing", "examples_per_s", 1.0)).agrees


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("dataset", "sha256", "cd" * 32), ("test", "images", 500), ("test", "importance_samples", 10), ("test", "log_px", None)],
)
def test_another_test_is_no_comparison(section: str, key: str, value: Any) -> None:
    comparison = compare(record(), changed(record(), section, key, value))
    assert (comparison.agrees, comparison.difference) == (False, None)


def test_other_settings_are_no_comparison() -> None:
    other = record() | {"config": Config().replace(learning_rate=0.5).as_dict()}
    comparison = compare(record(), other)
    assert not comparison.agrees
    assert comparison.reason == "config.optimizer.learning_rate was 0.001, is 0.5"


def test_a_setting_that_the_old_record_did_not_know_is_ignored() -> None:
    assert compare(record(), changed(record(), "config", "new", 1)).agrees


def test_the_schedule_sets_the_tolerance_of_any_preset() -> None:
    old = record() | {"preset": "new"}
    assert compare(old, record(log_px=-88.4) | {"preset": "new"}).verdict == "within error"
    for schedule, allowed in (("cosine", SETTLED), ("constant", MOVING)):
        assert tolerance(record() | {"config": Config().replace(schedule=schedule).as_dict()}) == allowed


def again(tmp_path: Path, run: Any) -> tuple[int, str]:
    """Reproduce a table of two rows: the exit code and what is printed."""
    for backend in ("pytorch", "jax"):
        records.write(record(backend), tmp_path / "records")
    records.write(record("tensorflow") | {"status": "not-run", "reason": "Not here."}, tmp_path / "records")
    console = Console(file=io.StringIO(), width=80)
    code = reproduce(
        "standard", device="cpu", results=tmp_path / "results", run=run, records_dir=tmp_path / "records", console=console
    )
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_rows_that_agree(tmp_path: Path) -> None:
    code, text = again(tmp_path, lambda old: record(old["backend"], log_px=-88.4))
    assert code == 0
    for part in ("-88.500", "-88.400", "+0.100", "within error", "2 of 2 rows agree."):
        assert part in text
    assert len(records.read_all(tmp_path / "results")) == 2


def test_one_row_that_differs_is_the_exit_code(tmp_path: Path) -> None:
    code, text = again(tmp_path, lambda old: record(old["backend"], log_px=-99.0 if old["backend"] == "pytorch" else -88.5))
    assert code == 1
    for part in ("differs", "identical", "1 of 2 rows agree."):
        assert part in text


def test_a_row_that_cannot_run_is_not_one_that_agrees(tmp_path: Path) -> None:
    def run(old: Record) -> Record:
        if old["backend"] == "pytorch":
            raise UserError("Backend 'pytorch' is unavailable.")
        return record(old["backend"])

    code, text = again(tmp_path, run)
    assert code == 1
    for part in ("not-run: Backend 'pytorch' is unavailable.", "1 of 2 rows agree."):
        assert part in text


def test_what_another_device_measured_is_not_repeated(tmp_path: Path) -> None:
    records.write(record("jax") | {"device": "cuda"}, tmp_path / "records")
    code, text = again(tmp_path, lambda old: old)
    assert code == 0
    assert "2 of 2 rows agree." in text


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for table, results, message in (
        ("quack", tmp_path / "results", "choose from"),
        ("standard", tmp_path / "results", "no record"),
        ("standard", tmp_path, "holds the records"),
    ):
        with pytest.raises(UserError, match=message):
            reproduce(table, device="cpu", results=results, run=lambda old: old, records_dir=tmp_path)
