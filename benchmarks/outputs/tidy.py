"""Records as a tidy table: one row a run, and a column for every setting and number; docs/compare.md describes the columns."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import presets, record_names
from benchmarks.harness.record_schema import Record
from common.config import Config
from common.errors import UserError

# The record's keys whose content is in columns of other names, and the curve, which is no number.
TAKEN = {"schema", "config", "curve", "trained", "precision", "dataset", "test", "timing", "environment"}

Row = dict[str, Any]  # column → text, number, truth value or None


def rows(found: Iterable[tuple[Path, Record]]) -> list[Row]:
    """A row for each record, all with the same columns; None where a record lacks one."""
    made = [_row(path, record) for path, record in found]
    empty: Row = {column: None for row in made for column in row}
    return [empty | row for row in made]


def _row(path: Path, record: Record) -> Row:
    """A setting has its flag's name, each other column its place in the record: test.log_px is test_log_px."""
    settings = presets.flat(Config.from_dict(record["config"]))
    shape = "x".join(map(str, settings["image_shape"]))
    test = dict(record["test"])
    nested, file = test.pop("by_samples") or {"samples": []}, test.pop("per_image") or {}
    sizes = {f"{name}_at_{k}": nested[name][i] for i, k in enumerate(nested["samples"]) for name in ("log_px", "log_px_se")}
    first = {
        "file": str(path),
        **{name: record[name] for name in ("status", "reason", "backend")},
        "trained_by": record_names.trained_by(record),
        "preset": record["preset"],
        "changed": record_names.changes(record),
        "factors": record["precision"],
        **_flat("dataset", record["dataset"]),
        **settings,
        "image_shape": shape,
        "parameters": record["parameters"],
        **_flat("test", test | sizes | {"per_image": file.get("file")}),
        **_flat("timing", record["timing"]),
        "peak_memory_bytes": record["peak_memory_bytes"],
        **_flat("environment", record["environment"]),
    }
    return first | _flat("", {name: value for name, value in record.items() if name not in first.keys() | TAKEN})


def _flat(place: str, value: Any) -> Row:
    """The value's numbers and texts by their places, as names in snake case; a list is its JSON."""
    if isinstance(value, dict):
        return {name: each for key, inner in value.items() for name, each in _flat(f"{place}_{key}", inner).items()}
    return {_snake_case(place): json.dumps(value) if isinstance(value, list) else value}


@functools.cache
def _snake_case(place: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", place.lower()).strip("_")


def as_csv(rows: list[Row]) -> bytes:
    """UTF-8; an empty field for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json(rows: list[Row]) -> bytes:
    """A list of objects."""
    return (json.dumps(rows, indent=1) + "\n").encode()


def as_parquet(rows: list[Row]) -> bytes:
    """A column of whole numbers and fractions is one of fractions, and a column without a value one of nulls.

    Raises `UserError` where pyarrow isn't installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"--parquet needs pyarrow ({error}); `pip install -r environments/extras.txt`.") from error
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS = {"csv": as_csv, "json": as_json, "parquet": as_parquet}
