"""A run's results image by image lie beside its record, and are refused where they aren't the run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import per_image, records
from common.errors import UserError
from tests.harness.example import example

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
