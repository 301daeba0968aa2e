"""A record is what was written, or an error that names its file."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import environment, per_image, presets, record_names, record_schema, records, reports
from benchmarks.harness.record_schema import Record
from common.config import Config
from common.errors import UserError


def example(**changes: Any) -> Record:
    """A finished run's record, with some top-level keys changed."""
    record = record_schema.blank(
        Config().replace(variational="flow"),
        backend="jax",
        dataset_name="binarized-mnist",
        dataset_sha256="ab" * 32,
        preset="standard",
        environment=environment.describe(),
    )
    record |= {"status": "ok", "reason": None, "parameters": 12345, "peak_memory_bytes": 3 * 2**28}
    record["curve"] = {"step": [500], "objective": [-140.5], "elbo": [-141.5], "valid_step": [1000], "valid_elbo": [-139.25]}
    record["timing"] |= {"setup_s": 1.5, "compile_s": 2.5, "steady_s": 600.0, "evaluation_s": 30.0}
    record["timing"] |= {"examples_per_s": 7654.3, "examples_per_s_iqr": 321.0, "floor_s": 0.0125, "floor_ratio": 1.34}
    record["test"] |= {"elbo": -94.414, "elbo_se": 0.25, "log_px": -88.964, "log_px_se": 0.24}
    record["test"] |= {"importance_samples": 1000, "images": 10_000, "ess": 61.5}
    return record | changes


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


def test_name() -> None:
    assert record_names.name_of(example()) == "standard_binarized-mnist_jax_flow_cpu_float32_seed0.json"
    other = example(preset="quick", seed=7, dataset={"name": "../my data/faces_64.h5", "sha256": None})
    assert record_names.name_of(other) == "quick_faces-64_jax_flow_cpu_float32_seed7.json"
    for name in ("faces.hdf5", "faces.HDF5", "faces.he5", "faces.npy"):
        assert record_names.data_name({"name": name}) == "faces"


def test_a_record_whose_checksum_has_lost_its_name_is_edited(tmp_path: Path) -> None:
    path = records.write(example(), tmp_path)
    text = path.read_text()
    assert "edited" not in records.read(path)
    path.write_text(text.replace('"checksum"', '"chfcksum"'))
    assert records.read(path)["edited"]


def test_two_data_files_never_share_a_name_and_no_name_is_too_long(tmp_path: Path) -> None:
    files = {"é.h5": "ab1234", "ü.h5": "cd1234", "/a/x.h5": "ef1234", "/b/x.h5": "ab5678", "x" * 300 + ".npz": "cd5678"}
    made = [example(dataset={"name": name, "sha256": sha256 * 10}) for name, sha256 in files.items()]
    names = [record_names.name_of(record) for record in made]
    assert len({*names}) == len(files)
    assert names[2] == "standard_x-ef1234_jax_flow_cpu_float32_seed0.json"
    assert max(map(len, names)) < 120
    named = example(dataset={"name": "binarized-mnist", "sha256": "ab" * 32})
    assert "ab" * 3 not in record_names.name_of(named), "a name of its own says enough"


def test_a_record_with_the_name_of_earlier_versions_is_read(tmp_path: Path) -> None:
    record = example(dataset={"name": "/a/x.h5", "sha256": "ab" * 32})
    path = records.write(record, tmp_path)
    earlier = path.rename(tmp_path / record_names.name_of(record, hashed=False))
    assert earlier.name == "standard_x_jax_flow_cpu_float32_seed0.json"
    assert [*records.found(tmp_path)] == [earlier]
    assert record_names.beside(tmp_path, record, record_names.name_of) == earlier
    assert (
        record_names.beside(tmp_path, record, record_names.checkpoint_name_of).name
        == "standard_x-ababab_jax_flow_cpu_float32_seed0.h5"
    )


MANY = {"steps": 9, "warm_up": 3, "hidden_size": 8, "latent_size": 2, "ema_decay": 0.9}
REST = "_binarized-mnist_jax_mean-field_cpu_float32_seed0"


def changed(preset: str = "standard", **settings: Any) -> Record:
    """A run of a preset with some settings changed."""
    config = presets.PRESETS.get(preset, Config()).replace(**settings)
    return record_schema.blank(config, backend="jax", dataset_name="binarized-mnist", dataset_sha256=None, preset=preset)


@pytest.mark.parametrize(
    ("settings", "record", "checkpoint"),
    [
        ({}, "", ""),
        ({"image_shape": (8, 8)}, "", ""),
        ({"steps": 3000}, "+steps3000", "+steps3000"),
        ({"steps": 3000, "data_bias": False}, "+no-data-bias+steps3000", "+no-data-bias+steps3000"),
        ({"optimizer": "rmsprop", "adam_epsilon": 1e-9}, "+adam-epsilon1e-09+optimizer-rmsprop", None),
        ({"samples": 7, "images": 50, "chunk": 9, "log_interval": 3}, "+chunk9+images50+log-interval3+samples7", ""),
        ({"compile_from": 29_999}, "", ""),  # it still compiles
        ({"compile_from": 30_001}, "+compile-from30001", "+compile-from30001"),
        (MANY | {"learning_rate": 0.5}, "+ec3f24d4c8", None),
    ],
)
def test_what_differs_from_the_preset_is_in_the_name(settings: dict[str, Any], record: str, checkpoint: str | None) -> None:
    made = changed(**settings)
    assert record_names.name_of(made) == f"standard{record}{REST}.json"
    assert record_names.checkpoint_name_of(made) == f"standard{record if checkpoint is None else checkpoint}{REST}.h5"
    assert record_names.changed(made) == {key: value for key, value in settings.items() if key in made["changed"]}
    assert bool(record_names.changed(made)) == bool(record)


def test_every_other_setting_has_another_name() -> None:
    rates = [1e-4, 1e20, 1e-20, 0.5]
    names = {record_names.name_of(changed(learning_rate=rate)) for rate in rates}
    names |= {record_names.name_of(changed(**MANY, learning_rate=rate)) for rate in rates}
    assert len(names) == 2 * len(rates)


def test_a_study_names_its_runs_itself() -> None:
    assert record_names.name_of(changed("ancestor-jax+width", steps=7)) == f"ancestor-jax-width{REST}.json"


def test_an_older_record_keeps_its_name_and_is_held_against_its_preset() -> None:
    record = changed(steps=3000, sample_block=100)
    del record["changed"]
    assert record_names.name_of(record) == f"standard{REST}.json"
    assert record_names.changed(record) == {"steps": 3000}, "rounding alone is no other setting"
    assert record_names.changes(record) == "steps 3000"


@pytest.mark.parametrize("key", ["preset", "backend", "variational", "device", "precision", "seed"])
def test_runs_that_differ_have_names_that_differ(key: str) -> None:
    assert record_names.name_of(example(**{key: 3 if key == "seed" else "other"})) != record_names.name_of(example())


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


ARRAYS = {"image": np.array([3, 1]), "elbo": np.array([-90.5, -80.25]), "log_px": np.array([-88.5, -79.125])}


def with_images(folder: Path) -> Path:
    """A record with per-image results; its path."""
    record = example()
    record["test"]["per_image"] = per_image.write(ARRAYS, record, folder=folder)
    return records.write(record, folder)


def test_per_image_results_lie_beside_the_record(tmp_path: Path) -> None:
    path = with_images(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, path.with_suffix(".npz").name}
    found = per_image.read(path)
    assert found is not None
    assert {name: array.dtype.name for name, array in found.items()} == {
        "image": "int32",
        "elbo": "float32",
        "log_px": "float32",
    }
    assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    assert len(records.read_all(tmp_path)) == 1
    assert per_image.read(records.write(example(seed=1), tmp_path)) is None


@pytest.mark.parametrize("change", ["removed", "altered", "another run's", "a pickle"])
def test_other_per_image_results_are_refused_and_the_record_is_read(tmp_path: Path, change: str) -> None:
    path = with_images(tmp_path)
    file = path.with_suffix(".npz")
    if change == "removed":
        file.unlink()
    elif change == "altered":
        file.write_bytes(file.read_bytes()[:-1])
    elif change == "another run's":
        per_image.write(ARRAYS | {"elbo": np.array([-90.5, -80.0])}, example(), folder=tmp_path)
    else:
        np.savez(file, **{name: np.array([{}]) for name in ARRAYS})
    with pytest.raises(UserError, match=rf"{file.name}.*bring the file back"):
        per_image.read(path)
    assert records.read_all(tmp_path)[0]["test"]["elbo"] == -94.414


@pytest.mark.parametrize("path", [pytest.param(p, id=p.name) for p in sorted(records.RECORDS.glob("*.json"))])
def test_a_committed_record_is_well_formed_and_named_by_its_content(path: Path) -> None:
    record = records.read(path)
    assert path.name == record_names.name_of(record)
    config = Config.from_dict(copy.deepcopy(record["config"]))
    assert (record["variational"], record["seed"]) == (config.model.variational, config.training.seed)
    assert (record["device"], record["precision"]) == (config.device, config.dtype)


def test_the_environment_says_what_runs_where() -> None:
    described = environment.describe()
    assert described.keys() >= {"versions", "commit", "dirty", "machine", "threads", "load"}
    assert described["versions"]["numpy"] == np.__version__
    assert described["machine"]["cpu"]
    assert described["machine"]["memory_bytes"] > 0
    assert described["threads"]["cores"] >= 1
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_card_is_named_where_it_was_used(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    for name, value in {
        "Init": None,
        "DeviceGetHandleByIndex": 0,
        "DeviceGetName": "Card",
        "SystemGetDriverVersion": "7",
    }.items():
        monkeypatch.setattr(environment.pynvml, f"nvml{name}", lambda *_, value=value: value)
    assert environment.describe(device)["machine"]["gpu"] == ("Card, driver 7" if device == "cuda" else None)


def test_without_a_driver_no_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise environment.pynvml.NVMLError(environment.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(environment.pynvml, "nvmlInit", init)
    assert environment.describe("cuda")["machine"]["gpu"] is None


def test_a_processor_is_told_by_more_than_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(found: dict[str, Any]) -> str:
        monkeypatch.setattr(environment, "_processor", lambda: found)
        return reports.machine(environment.describe(), setting="cpu").split(";")[0]

    epyc = {"brand_raw": "AMD EPYC", "family": 25}
    assert line(epyc | {"model": 1, "flags": ["avx", "avx2"]}) == "AMD EPYC (family 25 model 1, avx2)"
    wide = epyc | {"model": 17, "flags": ["avx", "avx2", "avx512_bf16", "avx512f"]}
    assert line(wide) == "AMD EPYC (family 25 model 17, avx512_bf16)"
    assert line({"brand_raw": "Chip"}) == "Chip"


def test_thread_variables_are_noted_as_they_were_at_the_processs_start() -> None:
    code = "import os; from benchmarks.harness import environment; os.environ['MKL_NUM_THREADS'] = '5'; "
    code += "print(environment.describe()['threads']['variables'])"
    given = {name: value for name, value in os.environ.items() if not name.startswith(environment.DECIDING)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=environment.ROOT, env=given | {"OMP_NUM_THREADS": "3"}, capture_output=True, check=True)
    assert told.stdout.decode().strip() == "{'OMP_NUM_THREADS': '3'}"


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    described = environment.describe()
    assert (described["commit"], described["dirty"]) == (None, None)
