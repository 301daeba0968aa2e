"""Each test image's ELBO and log p(x), in an .npz file beside the run's record.

The file has the record's name and arrays [images]: image, int32, the index in the test set; elbo and log_px, float32.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.harness import record_names, records
from benchmarks.harness.record_schema import Record
from common.errors import UserError
from common.files import write_bytes
from common.image_files import DAMAGED_NUMPY

ARRAYS = {"image": np.int32, "elbo": np.float32, "log_px": np.float32}  # [images] each


def write(arrays: Mapping[str, np.ndarray], record: Record, *, folder: Path) -> dict[str, str]:
    """Write the arrays of ARRAYS beside the record; the value of the record's `test.per_image`.

    Write this file before the record: a record never names a file that isn't there. Raises `UserError` as `records.write` does.
    """
    path = folder / Path(record_names.name_of(record)).with_suffix(".npz")
    memory = io.BytesIO()
    np.savez_compressed(memory, allow_pickle=False, **{name: np.asarray(arrays[name], kind) for name, kind in ARRAYS.items()})
    write_bytes(path, memory.getvalue())
    return {"file": path.name, "sha256": hashlib.sha256(memory.getvalue()).hexdigest()}


def read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of ARRAYS, [images], of the record in the file `path`; None where the record names none, as older ones.

    Raises `UserError` where the arrays' file is missing or isn't the one that the run wrote.
    """
    named = records.read(path)["test"]["per_image"]
    if named is None:
        return None
    file = path.parent / named["file"]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"Cannot read the per-image results {file} ({error.strerror or error}); bring the file back."
        ) from error
    if hashlib.sha256(content).hexdigest() != named["sha256"]:
        raise UserError(f"The per-image results {file} aren't those that the run of {path} wrote; bring the file back.")
    try:
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = {name: np.asarray(stored[name]) for name in ARRAYS}
    except (*DAMAGED_NUMPY, ValueError, LookupError) as error:
        raise UserError(f"The per-image results {file} lack an array or are damaged ({error}); run it again.") from error
    once = arrays["image"].ndim == 1 and len(np.unique(arrays["image"])) == len(arrays["image"])
    fits = all(array.shape == arrays["image"].shape and array.dtype == ARRAYS[name] for name, array in arrays.items())
    if not (once and fits and all(np.isfinite(array).all() for array in arrays.values())):
        raise UserError(f"The per-image results {file} aren't one finite number an image; run it again.")
    return arrays
