"""A record is what was written, or an error that names its file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import environment, record_names, record_schema, records, reports
from common.config import Config
from common.errors import UserError
from tests.harness.example import example


@pytest.mark.parametrize("status", [{}, {"status": "failed", "reason": "It fell over."}])
def test_what_is_written_is_read(tmp_path: Path, status: dict[str, str]) -> None:
    record = example(**status)
    path = records.write(record, tmp_path / "new" / "folder")
    assert records.read(path) == record
    assert records.read_all(path.parent) == [record]


def test_a_blank_record_has_every_key_and_no_number(tmp_path: Path) -> None:
    record = record_schema.blank(Config(), backend="pytorch", dataset_name="x.h5", dataset_sha256=None, preset="quick")
    assert {place.partition(".")[0] for place in record_schema.REQUIRED} <= record.keys()
    for section in ("timing", "test"):
        assert record[section].keys() == {*record_schema.SECTIONS[section], *record_schema.LATER[section]}
        assert set(record[section].values()) == {None}
    assert records.read(records.write(record, tmp_path)) == record


def test_a_record_whose_checksum_has_lost_its_name_is_edited(tmp_path: Path) -> None:
    path = records.write(example(), tmp_path)
    text = path.read_text()
    assert "edited" not in records.read(path)
    path.write_text(text.replace('"checksum"', '"chfcksum"'))
    assert records.read(path)["edited"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_no_nan_is_written_and_a_diverged_run_has_failed(tmp_path: Path, bad: float) -> None:
    record = example()
    record["test"]["elbo"] = bad
    record["timing"]["floor_ratio"] = bad
    path = records.write(record, tmp_path)
    json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} in a record"))
    written = records.read(path)
    assert (written["test"]["elbo"], written["timing"]["floor_ratio"]) == (None, None)
    assert written["status"] == "failed"
    assert "test.elbo" in written["reason"]


def test_a_standard_error_that_is_unknown_is_absent_and_fails_no_run(tmp_path: Path) -> None:
    record = example()
    record["test"] |= {"log_px_se": float("nan"), "by_samples": {"samples": [1], "log_px": [-9.0], "log_px_se": [np.nan]}}
    written = records.read(records.write(record, tmp_path))
    assert (written["status"], written["test"]["log_px_se"], written["test"]["by_samples"]["log_px_se"]) == ("ok", None, [None])


def test_a_time_that_is_nan_is_absent_and_fails_no_run(tmp_path: Path) -> None:
    record = example()
    record["timing"]["floor_ratio"] = float("nan")
    written = records.read(records.write(record, tmp_path))
    assert (written["status"], written["timing"]["floor_ratio"]) == ("ok", None)


def test_numpy_numbers_become_json_numbers(tmp_path: Path) -> None:
    plain = example()
    record = copy.deepcopy(plain)
    record["curve"]["elbo"] = np.array([-141.5])
    record["test"]["images"] = np.int64(10_000)
    assert records.read(records.write(record, tmp_path)) == plain


def test_a_record_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a reason"):
        records.write(example(status="failed"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", record_schema.REQUIRED)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    record = example()
    section, _, inner = key.partition(".")
    del (record[section] if inner else record)[inner or section]
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"broken\.json lacks '{key}'"):
        records.read(path)


def test_keys_that_came_later_may_be_missing(tmp_path: Path) -> None:
    record = example()
    del record["parameters"], record["test"]["ess"], record["timing"]["evaluation_s"]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(record))
    read = records.read(path)
    assert (read["parameters"], read["test"]["ess"], read["timing"]["evaluation_s"]) == (None, None, None)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "schema", 2),
        (None, "status", "fine"),
        (None, "seed", "0"),
        (None, "backend", None),
        (None, "backend", "theano"),
        (None, "timing", 3),
        ("timing", "warning", 3),
        ("timing", "unknown", "3"),
        ("dataset", "name", None),
        (None, "trained", [{"backend": "jax"}]),
        (None, "changed", ["steps"]),
        (None, "peak_memory_bytes", "much"),
        pytest.param(None, "peak_memory_bytes", 10**400, id="a huge integer"),
        pytest.param("curve", "step", [10**400], id="a list with a huge integer"),
        ("config", "model", {"latent_size": 2, "holes": 3}),
        ("config", "training", None),
        ("test", "by_samples", {"samples": [1], "log_px": ["-90"], "log_px_se": [0.1]}),
        ("test", "by_samples", {"samples": [1], "log_px": [-90]}),
        ("test", "by_samples", {"samples": [1, 10], "log_px": [-90], "log_px_se": [0.1]}),
        ("test", "per_image", {"file": "../elsewhere.npz", "sha256": "ab"}),
        ("test", "per_image", {"file": "beside.npz"}),
        ("test", "elbo", "-90"),
        ("test", "elbo", True),
        ("curve", "elbo", -90.0),
    ],
)
def test_a_malformed_value_is_refused(tmp_path: Path, section: str | None, key: str, value: Any) -> None:
    record = example()
    (record[section] if section else record)[key] = value
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"broken\.json"):
        records.read(path)


def test_a_record_that_was_changed_by_hand_says_so(tmp_path: Path) -> None:
    path = records.write(example(), tmp_path)
    assert "edited" not in records.read(path)
    path.write_text(path.read_text().replace("12345", "12346"))
    assert records.read(path)["edited"]
    assert records.read(path)["parameters"] == 12346
    text = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(text.items())) | {"parameters": 12345}))
    assert "edited" not in records.read(path), "the order of keys and spaces say nothing"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"test": NaN}', "\x00"])
def test_text_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.json"):
        records.read(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(example()).replace("-94.414", number))
    with pytest.raises(UserError, match=r"broken\.json"):
        records.read(path)


def test_a_report_beside_records_is_passed_over(tmp_path: Path) -> None:
    record = example()
    records.write(record, tmp_path)
    reports.write("parity", {"rows": []}, tmp_path, environment=environment.describe())
    assert records.read_all(tmp_path) == [record]


def test_a_copy_under_another_name_is_refused(tmp_path: Path) -> None:
    path = records.write(example(), tmp_path)
    (tmp_path / "copy.json").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=rf"copy\.json is that of {path.name}"):
        records.read_all(tmp_path)


def test_a_folder_is_read_in_the_order_of_names_without_files_being_written(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        records.write(example(seed=seed), tmp_path)
    (tmp_path / ".0f.half.json").write_text("{")
    (tmp_path / "notes.txt").write_text("{")
    assert [record["seed"] for record in records.read_all(tmp_path)] == [1, 10, 2]
    assert records.read_all(tmp_path / "absent") == []


@pytest.mark.parametrize("path", [pytest.param(p, id=p.name) for p in sorted(records.RECORDS.glob("*.json"))])
def test_a_committed_record_is_well_formed_and_named_by_its_content(path: Path) -> None:
    record = records.read(path)
    assert path.name == record_names.name_of(record)
    config = Config.from_dict(copy.deepcopy(record["config"]))
    assert (record["variational"], record["seed"]) == (config.model.variational, config.training.seed)
    assert (record["device"], record["precision"]) == (config.device, config.dtype)
