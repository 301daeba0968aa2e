"""One JSON file a run: what it was, where it ran, and every number that it claims.

    schema, status, reason         1; ok, failed or not-run; unless ok, one sentence on why
    backend, variational, preset, seed, device, precision, config, dataset {name, sha256}
    changed                        {setting: value} where the run's settings aren't its preset's
    environment                    {versions, commit, machine, threads, load}, from `environment.describe`; load_after;
                                   round_trip_ns before training, round_trip_after_ns after it, from `harness.cores`
    trained                        [{backend, last_step}] in order: more than one where a run changed its framework half-way
    parameters                     scalars in the model
    curve                          training means {step, objective, elbo}; on validation data {valid_step, valid_elbo}
    timing.import_s, setup_s       importing the framework; from then to a session with its initial state, the data set read
    timing.placement_s             both data sets of training onto the device
    timing.compile_s               what the first chunks of their lengths took beyond a median chunk of their steps
    timing.programs_compiled       how many a persistent cache lacked: 0 where an earlier process compiled all; null without a
                                   cache, and for a run that was gone on with
    timing.first_chunk_s           the first chunk as it was, with what it compiled
    timing.steady_s                all chunks of training, without compiling, validation and checkpoints
    timing.examples_per_s          median over chunks; examples_per_s_iqr the third quartile less the first
    timing.chunks                  how many chunks that median is of
    timing.warning                 one sentence where they spread by more than `spread.BOUND` of their median
    timing.floor_s, floor_ratio    the floor of one step; a step's median time over it
    timing.evaluation_s            scoring the test images
    peak_memory_bytes              the most resident memory of the run's process; null where the system doesn't say (Linux does)
    test.elbo, log_px              means over the test images; elbo_se, log_px_se their standard errors over images
    test.importance_samples, images, ess    K; images scored; effective sample size of the K, mean over images

Units are seconds, bytes, nats per image and examples a second. An absent number is null; NaN and infinities are never written.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import presets
from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.protocol import BACKENDS

Record = dict[str, Any]

RECORDS = Path(__file__).parents[1] / "records"  # what is committed
SCHEMA = 1
LONGEST_DIFFERENCES = 60  # characters of a file's name
STATUSES = ("ok", "failed", "not-run")

# Other tools read these keys: none may be renamed.
TEXTS = ("status", "backend", "variational", "preset", "device", "precision")
NUMBERS = ("peak_memory_bytes",)
SECTIONS = {
    "dataset": ("name", "sha256"),
    "config": ("model", "optimizer", "training", "evaluation"),
    "environment": ("versions", "commit", "machine", "threads"),
    "curve": ("step", "objective", "elbo", "valid_step", "valid_elbo"),
    "timing": ("setup_s", "compile_s", "steady_s", "examples_per_s", "examples_per_s_iqr", "floor_s", "floor_ratio"),
    "test": ("elbo", "log_px", "log_px_se", "importance_samples", "images"),
}
REQUIRED = ("schema", "reason", "seed", *TEXTS, *NUMBERS, *SECTIONS)
# Keys that a file may lack: `read` gives them as null.
LATER_NUMBERS = ("parameters",)
LATER = {
    "timing": ("evaluation_s", "import_s", "placement_s", "first_chunk_s", "chunks", "warning", "programs_compiled"),
    "test": ("ess", "elbo_se"),
}
WARNING = "timing.warning"  # the one text among the numbers


def blank(
    config: Config,
    *,
    backend: str,
    dataset_name: str,
    dataset_sha256: str | None,
    preset: str,
    environment: dict[str, Any] | None = None,
) -> Record:
    """A record of a run that hasn't begun: every key is there, no number is. Its `reason` is to be filled in or cleared."""
    return {
        "schema": SCHEMA,
        "status": "not-run",
        "reason": "The run has not begun.",
        "backend": backend,
        "variational": config.model.variational,
        "dataset": {"name": dataset_name, "sha256": dataset_sha256},
        "preset": preset,
        "seed": config.training.seed,
        "device": config.device,
        "precision": config.factors,
        "config": config.as_dict(),
        "changed": presets.changed(config, preset),
        "environment": environment or dict.fromkeys(SECTIONS["environment"]),
        "trained": [],
        "parameters": None,
        "curve": {key: [] for key in SECTIONS["curve"]},
        "timing": dict.fromkeys((*SECTIONS["timing"], *LATER["timing"])),
        "peak_memory_bytes": None,
        "test": dict.fromkeys((*SECTIONS["test"], *LATER["test"])),
    }


def name_of(record: Record) -> str:
    """The file name that a record's content asks for; an .h5 data set goes by its file's name alone.

    A run of its preset's settings has the preset's name; each setting that differs adds a part: "standard+steps3000_…".
    """
    return f"{_name(record, record.get('changed', {}))}.json"


def checkpoint_name_of(record: Record) -> str:
    """The file name of the run's checkpoint: runs that train the same have one, which can be tested in several ways."""
    changed = record.get("changed", {})
    return f"{_name(record, {key: value for key, value in changed.items() if key not in presets.MAY_CHANGE})}.h5"


def changed(record: Record) -> dict[str, Any]:
    """The settings in which the record's run differs from its preset, {} for none.

    A record that was written before it could say so is compared with today's preset, in the settings that it knows and that
    change more than rounding.
    """
    if "changed" in record:
        return dict(record["changed"])
    differing = presets.changed(Config.from_dict(record["config"]), record["preset"])
    return {key: value for key, value in differing.items() if key not in ("image_batch", "sample_block", "compile_from")}


def changes(record: Record) -> str:
    """`changed` in words: "steps 3000, hidden-size 64"."""
    return ", ".join(f"{key.replace('_', '-')} {value}" for key, value in changed(record).items())


def _name(record: Record, changed: dict[str, Any]) -> str:
    dataset = re.split(r"[/\\]", record["dataset"]["name"])[-1].removesuffix(".h5")
    parts = [record["preset"], dataset, *(record[key] for key in ("backend", "variational", "device", "precision"))]
    # "_" separates the parts and "+" the changed settings, so that no part may contain either.
    first, *rest = (re.sub(r"[^A-Za-z0-9.-]+", "-", str(part)) for part in (*parts, f"seed{record['seed']}"))
    return "_".join([first + _differences(changed), *rest])


def _differences(changed: dict[str, Any]) -> str:
    """ "+steps3000+no-data-bias"; a hash of the settings where that is long."""
    parts = [_difference(key.replace("_", "-"), value) for key, value in sorted(changed.items())]
    text = "".join(f"+{part}" for part in parts)
    if len(text) <= LONGEST_DIFFERENCES:
        return text
    return "+" + hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]


def _difference(flag: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag if value else f"no-{flag}"
    return f"{flag}-{value}" if isinstance(value, str) else f"{flag}{value}".replace("+", "")  # 1e+20


def write(record: Record, folder: Path) -> Path:
    """Write the record into the folder, under its own name, and return the path.

    NumPy's scalars and arrays become JSON's. A NaN or infinity becomes null, and in the curve or the test it also turns an "ok"
    run into a "failed" one: it has diverged. Raises `UserError` where the file can't be written, `ValueError` for a record that
    `read` would refuse.
    """
    not_finite: list[str] = []
    plain = _plain(record, "", not_finite)
    diverged = [place for place in not_finite if place.startswith(("curve", "test"))]
    if diverged and plain["status"] == "ok":
        plain.update(status="failed", reason=f"The run diverged: {diverged[0]} is not a finite number.")
    fault = _fault(plain)
    if fault:
        raise ValueError(f"The record {fault}.")
    text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
    path = folder / name_of(plain)
    write_text(path, text)
    return path


def read(path: Path) -> Record:
    """The record of a file. Raises `UserError` that names the file where there is none, or it is malformed."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"Cannot read the record {path} ({error.strerror or error}).") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"The record {path} is not JSON ({error}); remove it or run it again.") from error
    fault = _fault(record)
    if fault:
        raise UserError(f"The record {path} {fault}; remove it or run it again.")
    for key in LATER_NUMBERS:
        record.setdefault(key, None)
    record.setdefault("trained", [])
    for section, keys in LATER.items():
        record[section] = dict.fromkeys(keys) | record[section]
    return dict(record)


def read_all(folder: Path) -> list[Record]:
    """Every record of a folder, by file name; none where there is no folder.

    Raises `UserError` as `read` does, and for a file of another name than its record's: a copy would be a second row.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]  # a dot: being written
    found = [read(path) for path in paths]
    for path, record in zip(paths, found, strict=True):
        if path.name != name_of(record):
            raise UserError(f"The record {path} is that of {name_of(record)}; give it this name, or remove it.")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _plain(value: Any, place: str, not_finite: list[str]) -> Any:
    """The value in JSON's types; where a number isn't finite it becomes None and its place, "test.elbo", goes on the list."""
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


def _fault(record: Any) -> str | None:
    """What is wrong with a record, as the rest of a sentence about it; None for nothing."""
    if not isinstance(record, dict):
        return "is not an object"
    for key in REQUIRED:
        if key not in record:
            return f"lacks '{key}'"
    for section, keys in SECTIONS.items():
        if not isinstance(record[section], dict):
            return f"has a '{section}' that is not an object"
        for key in keys:
            if key not in record[section]:
                return f"lacks '{section}.{key}'"
    if record["schema"] != SCHEMA:
        return f"has schema {record['schema']}, not {SCHEMA}"
    texts = {key: record[key] for key in TEXTS} | {"dataset.name": record["dataset"]["name"]}
    numbers = {key: record.get(key) for key in (*NUMBERS, *LATER_NUMBERS)}
    numbers |= {f"{part}.{key}": value for part in ("timing", "test") for key, value in record[part].items()}
    warning = numbers.pop(WARNING, None)
    curve = {f"curve.{key}": values for key, values in record["curve"].items()}
    checks: list[tuple[str, Callable[[Any], bool], dict[str, Any]]] = [
        ("text", lambda value: isinstance(value, str), texts),
        ("text or null", lambda value: isinstance(value, str | None), {WARNING: warning}),
        ("a number or null", _is_number, numbers),
        ("a whole number", lambda value: isinstance(value, int), {"seed": record["seed"]}),
        ("an object", lambda value: isinstance(value, dict), {"changed": record.get("changed", {})}),
        ("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value)), curve),
        ("a list of {backend, last_step}", _is_trained, {"trained": record.get("trained", [])}),
    ]
    for kind, fits, values in checks:
        for key, value in values.items():
            if not fits(value):
                return f"has a '{key}' that is not {kind}"
    if record["backend"] not in BACKENDS:
        return f"is of a backend '{record['backend']}', which is none of {', '.join(BACKENDS)}"
    if record["status"] not in STATUSES:
        return f"has status '{record['status']}', which is none of {', '.join(STATUSES)}"
    if record["status"] != "ok" and not (isinstance(record["reason"], str) and record["reason"]):
        return f"is {record['status']} without a reason"
    return None


def _is_trained(parts: Any) -> bool:
    return isinstance(parts, list) and all(
        isinstance(part, dict) and isinstance(part.get("backend"), str) and isinstance(part.get("last_step"), int)
        for part in parts
    )


def _is_number(value: Any) -> bool:
    """Whether it is null or a finite number; JSON's 1e999 is an infinity."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
