"""Runs that differ have records and checkpoints whose names differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import presets, record_names, record_schema, records
from benchmarks.harness.record_schema import Record
from common.config import Config
from tests.harness.example import example


def test_name() -> None:
    assert record_names.name_of(example()) == "standard_binarized-mnist_jax_flow_cpu_float32_seed0.json"
    other = example(preset="quick", seed=7, dataset={"name": "../my data/faces_64.h5", "sha256": None})
    assert record_names.name_of(other) == "quick_faces-64_jax_flow_cpu_float32_seed7.json"
    for name in ("faces.hdf5", "faces.HDF5", "faces.he5", "faces.npy"):
        assert record_names.data_name({"name": name}) == "faces"


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
