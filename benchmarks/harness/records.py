"""The records of a folder: written whole, read with a check of each key, found by their file names.

`record_schema` says what a record holds, `record_names` how its file is named.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.record_names import beside, checkpoint_name_of, name_of
from benchmarks.harness.record_schema import LATER, REQUIRED, Record, fault
from common.errors import UserError
from common.files import read_text, write_text

RECORDS = Path(__file__).parents[1] / "records"  # what is committed


def write(record: Record, folder: Path) -> Path:
    """Write the record into the folder, under `name_of` it, and return the path.

    NumPy's scalars and arrays become JSON's. NaN and infinities become null; a run with one in its curve or test has diverged
    and fails. A standard error of one image or sample is unknown: it may be NaN. Raises `UserError` where the file can't be
    written, `ValueError` for a record that `read` would refuse.
    """
    not_finite: list[str] = []
    plain = _plain(record, "", not_finite)
    diverged = [place for place in not_finite if place.startswith(("curve", "test")) and not place.endswith("_se")]
    if diverged and plain["status"] == "ok":
        plain.update(status="failed", reason=f"The run diverged: {diverged[0]} is not a finite number.")
    if wrong := fault(plain):
        raise ValueError(f"The record {wrong}.")
    plain["checksum"] = checksum(plain)
    path = folder / name_of(plain)
    write_text(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")
    return path


def checksum(record: Record) -> str:
    """SHA-256 of the record's JSON without its checksum."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Record:
    """The record of a file. Raises `UserError`, with the file's name, for a file that is missing or malformed."""
    try:
        record = json.loads(read_text(path), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"Cannot read the record {path} ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deep
        raise UserError(f"The record {path} is not JSON ({error}); remove it or run it again.") from error
    if wrong := fault(record):
        raise UserError(f"The record {path} {wrong}; remove it or run it again.")
    written = record.pop("checksum", None)
    # Old records have no checksum, and no key but these: with another, the checksum's own name was changed.
    changed = written != checksum(record) if written else bool(record.keys() - {*REQUIRED, "changed", "trained", "parameters"})
    edited = {"edited": True} if changed else {}
    later = {section: dict.fromkeys(keys) | record[section] for section, keys in LATER.items()}
    return {"parameters": None, "trained": [], "tail": []} | record | later | edited


def given(paths: Iterable[Path]) -> dict[Path, Record]:
    """Path → record of each path: a record's file, or a folder, which stands for its records.

    Raises `UserError` as `found` does, for a path that isn't there, another file, and a folder without a record.
    """
    records: dict[Path, Record] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no record or folder {path}; `python -m benchmarks run` makes the folder results.")
        if path.is_file() and path.suffix != ".json":
            raise UserError(f"{path} is no record; give a record's .json file, or a folder of records.")
        if not (of_path := found(path) if path.is_dir() else {path: read(path)}):
            raise UserError(f"The folder {path} has no record; `python -m benchmarks run --results {path}` writes one.")
        records |= of_path
    return records


def read_all(folder: Path) -> list[Record]:
    """The records of `found`, without their paths."""
    return list(found(folder).values())


def found(folder: Path) -> dict[Path, Record]:
    """Path → record of every record of a folder, in the order of file names; {} where there is no folder.

    Reports, which `parity` and studies write into a results folder too, are passed over.
    Raises `UserError` as `read` does, and for a file that isn't named by `name_of`: a copy would be a second row.
    """
    paths = sorted(folder.glob("[!.]*.json"))  # a dot: being written
    records = {path: read(path) for path in paths if not is_report(path)}
    for path, record in records.items():
        if not is_named(path, record):
            raise UserError(f"The record {path} is that of {name_of(record)}; give it this name, or remove it.")
    return records


def is_named(path: Path, record: Record) -> bool:
    """Whether the record's file has the name of its content: False for a copy and a renamed file."""
    return path.name in (name_of(record), name_of(record, hashed=False))


def checkpoint_beside(path: Path, record: Record) -> Path | None:
    """The path of the checkpoint of the record in this file; None for a copy: the checkpoint may be another run's."""
    return beside(path.parent, record, checkpoint_name_of) if is_named(path, record) else None


def is_report(path: Path) -> bool:
    """Whether the file is a report, which `parity` and the studies write into a results folder, too."""
    try:
        text = read_text(path)
        content = json.loads(text) if '"report"' in text else None  # most files are records, which are parsed once more
    except (OSError, ValueError, RecursionError):  # `read` says so
        return False
    return isinstance(content, dict) and content.get("report") == path.stem


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _plain(value: Any, place: str, not_finite: list[str]) -> Any:
    """The value in JSON's types. A number that isn't finite becomes None, and its place ("test.elbo") joins `not_finite`."""
    if isinstance(value, dict):
        return {key: _plain(inner, f"{place}.{key}".lstrip("."), not_finite) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), place, not_finite)
    if isinstance(value, list | tuple):
        return [_plain(inner, place, not_finite) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        not_finite.append(place)
        return None
    return value
