"""The file names of a run's record and checkpoint, from the record's content, and the words by which a record is shown."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import presets
from benchmarks.harness.record_schema import Record
from common import data
from common.config import Config
from common.errors import printable

LONGEST_DIFFERENCES, LONGEST_DATA_NAME = 60, 40  # characters of a file's name


def name_of(record: Record, *, hashed: bool = True) -> str:
    """The file name of a record, from its content. The data set's part is its `data_name`.

    The name begins with the preset; each setting that differs from the preset adds a part: "standard+steps3000_…". Data from a
    file have a piece of their SHA-256 in it, since two files can have one name; not `hashed`: the name of earlier versions.
    """
    return f"{_name(record, record.get('changed', {}), hashed=hashed)}.json"


def checkpoint_name_of(record: Record, *, hashed: bool = True) -> str:
    """The file name of the run's checkpoint; runs that differ only in SHARING, their test's settings say, share one."""
    trained = {key: value for key, value in record.get("changed", {}).items() if key not in presets.SHARING}
    return f"{_name(record, trained, hashed=hashed)}.h5"


def beside(folder: Path, record: Record, name: Callable[..., str]) -> Path:
    """The record's file in its folder, or its checkpoint, by `name`; by earlier versions' name where only that is there."""
    path, earlier = folder / name(record), folder / name(record, hashed=False)
    return earlier if earlier.exists() and not path.exists() else path


def changed(record: Record) -> dict[str, Any]:
    """The settings in which the record's run differs from its preset, {} for none.

    An older record doesn't have them: it is compared with today's preset, in settings that change more than rounding.
    """
    if "changed" in record:
        return dict(record["changed"])
    differing = presets.changed(Config.from_dict(record["config"]), record["preset"])
    return {key: value for key, value in differing.items() if key not in ("image_batch", "sample_block", "compile_from")}


def changes(record: Record) -> str:
    """`changed` in words: "steps 3000, hidden-size 64"."""
    return ", ".join(f"{key.replace('_', '-')} {value}" for key, value in changed(record).items())


def trained_by(record: Record) -> str:
    """The backend; for a run that several backends trained, each with its last step."""
    if len(record["trained"]) < 2:
        return str(record["backend"])
    return " → ".join(f"{part['backend']} {part['last_step']:,}" for part in record["trained"])


def data_name(dataset: dict[str, Any]) -> str:
    """A record's data set in a word: its name; a file's without folders and ending, "mine-threshold" for grey images."""
    name: str = re.split(r"[/\\]", dataset["name"])[-1]
    stem = printable(re.sub(r"(?i)\.(h5|hdf5|he5|npz|npy)$", "", name))
    return f"{stem}-{dataset['binarize']}" if dataset.get("binarize") else stem


def data_names(found: Iterable[Record]) -> Callable[[Record], str]:
    """A record's `data_name`; with a piece of the images' SHA-256 where other images among these records have that name."""
    hashes: dict[str, set[str]] = {}
    for record in found:
        hashes.setdefault(data_name(record["dataset"]), set()).update(filter(None, [record["dataset"]["sha256"]]))

    def named(record: Record) -> str:
        name, sha256 = data_name(record["dataset"]), record["dataset"]["sha256"]
        return f"{name}-{sha256[:6]}" if sha256 and len(hashes[name]) > 1 else name

    return named


def titled(name: str, binarize: str | None) -> str:
    """A data set's whole name, and how its grey images became binary."""
    return f"{name} ({binarize})" if binarize else name


def _name(record: Record, changed: dict[str, Any], *, hashed: bool) -> str:
    given = record["dataset"]
    named = data_name(given)
    if hashed and data.is_file(given["name"]) and given["sha256"]:
        named = f"{named[:LONGEST_DATA_NAME]}-{given['sha256'][:6]}"
    parts = [record["preset"], named, *(record[key] for key in ("backend", "variational", "device", "precision"))]
    # "_" separates the parts and "+" the changed settings: no part contains either.
    first, *rest = (re.sub(r"[^A-Za-z0-9.-]+", "-", str(part)) for part in (*parts, f"seed{record['seed']}"))
    return "_".join([first + _differences(changed), *rest])


def _differences(changed: dict[str, Any]) -> str:
    """ "+steps3000+no-data-bias"; a hash of the settings where that text is long."""
    text = "".join(f"+{_difference(key.replace('_', '-'), value)}" for key, value in sorted(changed.items()))
    if len(text) <= LONGEST_DIFFERENCES:
        return text
    return "+" + hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]


def _difference(flag: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag if value else f"no-{flag}"
    return f"{flag}-{value}" if isinstance(value, str) else f"{flag}{value}".replace("+", "")  # 1e+20
