"""A run's record: one JSON file that says what the run was, where it ran, and every number that it claims.

    schema, status, reason         1; ok, failed or not-run; unless ok, one sentence on why
    tail                           the last lines that a failed run's process wrote to stderr, from `tail_of`; else []
    backend, variational, preset, seed, device, precision, config, dataset {name, sha256, binarize}
    changed                        {setting: value} where the run's settings aren't its preset's
    environment                    {versions, commit, machine, threads, load}, from `environment.describe`; load_after;
                                   round_trip_ns, round_trip_after_ns: latency between cores before and after training;
                                   runnable: threads that other programs kept running before it; null where unknown
    trained                        [{backend, last_step}] in order, one for each framework that trained the run
    parameters                     scalars in the model
    curve                          training means {step, objective, elbo}; on validation data {valid_step, valid_elbo}
    timing.import_s, setup_s       importing the framework; from then to a session with its initial state, the data set read
    timing.placement_s             both data sets of training onto the device
    timing.compile_s               seconds of the first chunk of each length beyond a median chunk of as many steps
    timing.programs_compiled       programs compiled because the on-disk cache missed; null without a cache, and after --resume
    timing.first_chunk_s           the first chunk, with its compilation
    timing.steady_s                all chunks of training, without compilation, validation and checkpoints
    timing.examples_per_s          median over chunks; examples_per_s_iqr: third quartile − first quartile
    timing.chunks                  number of chunks in the median
    timing.product_library         of large products, where it isn't the framework's own choice; else null
    timing.uncompiled              why steps that the settings compile ran uncompiled; null where they didn't
    timing.warning                 one sentence where the chunks spread by more than `spread.BOUND` of their median
    timing.floor_s, floor_ratio    the floor of one step; a step's median time over it
    timing.evaluation_s            scoring the test images
    peak_memory_bytes              the most resident memory of the run's process; null where the system doesn't say (Linux does)
    test.elbo, log_px              means over the test images; elbo_se, log_px_se their standard errors over images
    test.log_px_mc_se              standard error of log_px over other draws of the importance samples
    test.importance_samples, images, ess    K; images scored; effective sample size of the K, mean over images
    test.by_samples                {samples, log_px, log_px_se, ess}, by the first 1, 10, 100 … K of the same samples
    test.warning                   one sentence where the estimates contradict what they are; see `estimators.warning`
    test.per_image                 {file, sha256} of each image's results beside the record; `per_image.read` reads them
    checksum                       SHA-256 of all else; a record that `records.read` finds changed has `edited`

Units are seconds, bytes, nats per image and examples a second. An absent number is null; NaN and infinities are never written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import presets
from common.config import DEFAULTS, Config, check_settings
from common.errors import UserError, printable
from common.protocol import BACKENDS

Record = dict[str, Any]

SCHEMA = 1
TAIL_LINES, TAIL_CHARACTERS = 20, 200  # the most lines of `tail`; the most characters of each
STATUSES = ("ok", "failed", "not-run")

# Other tools read these keys: none may be renamed.
SECTIONS = {
    "dataset": ("name", "sha256"),
    "config": ("model", "optimizer", "training", "evaluation"),
    "environment": ("versions", "commit", "machine", "threads"),
    "curve": ("step", "objective", "elbo", "valid_step", "valid_elbo"),
    "timing": ("setup_s", "compile_s", "steady_s", "examples_per_s", "examples_per_s_iqr", "floor_s", "floor_ratio"),
    "test": ("elbo", "log_px", "log_px_se", "importance_samples", "images"),
}
REQUIRED = (
    *("schema", "status", "reason", "backend", "variational", "preset", "seed", "device", "precision", "peak_memory_bytes"),
    *(place for section, keys in SECTIONS.items() for place in (section, *(f"{section}.{key}" for key in keys))),
)
# Keys that older files lack: `records.read` adds them as null.
LATER = {
    "dataset": ("binarize",),
    "timing": (
        *("evaluation_s", "import_s", "placement_s", "first_chunk_s", "chunks", "warning", "programs_compiled"),
        *("uncompiled", "product_library"),
    ),
    "test": ("ess", "elbo_se", "log_px_mc_se", "by_samples", "per_image", "warning"),
}
TIMING = (*SECTIONS["timing"], *LATER["timing"])


def _is_number(value: Any) -> bool:
    """Whether the value is null or a finite number; JSON's 1e999 is an infinity, and its integers have no bound."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) <= sys.float_info.max)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_tail(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def _is_trained(parts: Any) -> bool:
    return isinstance(parts, list) and all(
        isinstance(part, dict) and isinstance(part.get("backend"), str) and isinstance(part.get("last_step"), int)
        for part in parts
    )


def _is_by_samples(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    columns = [value.get(column) for column in ("samples", "log_px", "log_px_se")]
    return all(map(_is_numbers, columns)) and len({len(column) for column in columns if column is not None}) == 1


def _is_file_beside(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    name, sha256 = value.get("file"), value.get("sha256")
    return isinstance(sha256, str) and isinstance(name, str) and Path(name).name == name and "\0" not in name


# (what a value must be, whether a value is that, the places of such values); "timing.*" are all keys of the section that have
# no entry of their own.
KINDS: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (str(SCHEMA), lambda value: value == SCHEMA, ("schema",)),
    (f"one of {', '.join(STATUSES)}", lambda value: value in STATUSES, ("status",)),
    (f"one of {', '.join(BACKENDS)}", lambda value: value in BACKENDS, ("backend",)),
    ("text", lambda value: isinstance(value, str), ("variational", "preset", "device", "precision", "dataset.name")),
    (
        "text or null",
        lambda value: isinstance(value, str | None),
        (
            *(f"timing.{key}" for key in ("warning", "uncompiled", "product_library")),
            *("dataset.binarize", "dataset.sha256", "test.warning"),
            "environment.commit",
        ),
    ),
    ("a whole number", lambda value: isinstance(value, int), ("seed",)),
    ("a number or null", _is_number, ("parameters", "peak_memory_bytes", "timing.*", "test.*")),
    ("a list of numbers", _is_numbers, ("curve.*",)),
    ("null or {samples, log_px, log_px_se}, lists of numbers of one length", _is_by_samples, ("test.by_samples",)),
    ("null or {file, sha256}, with a file's name without folders", _is_file_beside, ("test.per_image",)),
    ("a list of {backend, last_step}", _is_trained, ("trained",)),
    ("a list of texts", _is_tail, ("tail",)),
    ("an object", lambda value: isinstance(value, dict), (*SECTIONS, "changed")),
    (
        "an object or null",
        lambda value: isinstance(value, dict | None),
        ("environment.versions", "environment.machine", "environment.threads"),
    ),
)
KIND_OF = {place: (kind, fits) for kind, fits, places in KINDS for place in places}


def blank(
    config: Config,
    *,
    backend: str,
    dataset_name: str,
    dataset_sha256: str | None,
    preset: str,
    binarize: str | None = None,
    environment: dict[str, Any] | None = None,
) -> Record:
    """The record of a run that hasn't begun: it has every key and no number. The caller sets `status` and `reason`."""
    return {
        "schema": SCHEMA,
        "status": "not-run",
        "reason": "The run has not begun.",
        "tail": [],
        "backend": backend,
        "variational": config.model.variational,
        "dataset": {"name": dataset_name, "sha256": dataset_sha256, "binarize": binarize},
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
        "timing": dict.fromkeys(TIMING),
        "peak_memory_bytes": None,
        "test": dict.fromkeys((*SECTIONS["test"], *LATER["test"])),
    }


def tail_of(lines: Iterable[str]) -> list[str]:
    """The record's `tail` of what a process wrote: its last lines, printable and cut."""
    written = [printable(line).rstrip()[:TAIL_CHARACTERS] for line in lines]
    return [line for line in written if line][-TAIL_LINES:]


def fault(record: Any) -> str | None:
    """What is wrong with a record, as the rest of a sentence; None for nothing."""
    if not isinstance(record, dict):
        return "is not an object"
    places = dict(record)
    for section in SECTIONS:
        if isinstance(record.get(section), dict):
            places |= {f"{section}.{key}": value for key, value in record[section].items()}
    for place, value in places.items():
        kind, fits = KIND_OF.get(place) or KIND_OF.get(f"{place.partition('.')[0]}.*") or ("", None)
        if fits and not fits(value):
            return f"has a '{place}' that is not {kind}"
    for place in REQUIRED:
        if place not in places:
            return f"lacks '{place}'"
    if record["status"] != "ok" and not (isinstance(record["reason"], str) and record["reason"]):
        return f"is {record['status']} without a reason"
    for columns in (("step", "objective", "elbo"), ("valid_step", "valid_elbo")):
        if len({len(record["curve"][column]) for column in columns}) > 1:
            return f"has a 'curve' whose {', '.join(columns)} differ in length"
    try:
        config = Config.from_dict(record["config"])
        check_settings(config.replace(network=DEFAULTS["model"].network))  # its own may be one of another checkout
    except UserError as error:
        return f"has a 'config' that this version can't read ({str(error).rstrip('.')})"
    return None
