"""One JSON file a run: what it was, where it ran, and every number that it claims.

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
    test.per_image                 {file, sha256} of the file beside the record with each image's result: `per_image` reads it
    checksum                       SHA-256 of all else; a record that `read` finds changed has `edited`

An .npz file of the record's name has arrays [images]: image, int32, the index in the test set; elbo and log_px, float32.
Units are seconds, bytes, nats per image and examples a second. An absent number is null; NaN and infinities are never written.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import presets
from common import data
from common.config import DEFAULTS, Config, check_settings
from common.errors import UserError, printable
from common.files import read_text, write_bytes, write_text
from common.image_files import DAMAGED_NUMPY
from common.protocol import BACKENDS

Record = dict[str, Any]

RECORDS = Path(__file__).parents[1] / "records"  # what is committed
SCHEMA = 1
LONGEST_DIFFERENCES, LONGEST_DATA_NAME = 60, 40  # characters of a file's name
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
# Keys that older files lack: `read` adds them as null.
LATER = {
    "dataset": ("binarize",),
    "timing": (
        *("evaluation_s", "import_s", "placement_s", "first_chunk_s", "chunks", "warning", "programs_compiled"),
        *("uncompiled", "product_library"),
    ),
    "test": ("ess", "elbo_se", "log_px_mc_se", "by_samples", "per_image", "warning"),
}
PER_IMAGE = {"image": np.int32, "elbo": np.float32, "log_px": np.float32}  # arrays of a per-image file, [images]
TIMING = (*SECTIONS["timing"], *LATER["timing"])


def _is_number(value: Any) -> bool:
    """Whether the value is null or a finite number; JSON's 1e999 is an infinity."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


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


def write(record: Record, folder: Path) -> Path:
    """Write the record into the folder, under `name_of` it, and return the path.

    NumPy's scalars and arrays become JSON's. NaN and infinities become null; a run with one in its curve or test has diverged
    and fails. Raises `UserError` where the file can't be written, `ValueError` for a record that `read` would refuse.
    """
    not_finite: list[str] = []
    plain = _plain(record, "", not_finite)
    diverged = [place for place in not_finite if place.startswith(("curve", "test"))]
    if diverged and plain["status"] == "ok":
        plain.update(status="failed", reason=f"The run diverged: {diverged[0]} is not a finite number.")
    if fault := _fault(plain):
        raise ValueError(f"The record {fault}.")
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
    if fault := _fault(record):
        raise UserError(f"The record {path} {fault}; remove it or run it again.")
    written = record.pop("checksum", None)
    # Old records have no checksum, and no key but these: with another, the checksum's own name was changed.
    changed = written != checksum(record) if written else bool(record.keys() - {*REQUIRED, "changed", "trained", "parameters"})
    edited = {"edited": True} if changed else {}
    later = {section: dict.fromkeys(keys) | record[section] for section, keys in LATER.items()}
    return {"parameters": None, "trained": [], "tail": []} | record | later | edited


def write_per_image(arrays: Mapping[str, np.ndarray], record: Record, *, folder: Path) -> dict[str, str]:
    """Write the arrays of PER_IMAGE beside the record; the value of the record's `test.per_image`.

    Write this file before the record: a record never names a file that isn't there. Raises `UserError` as `write` does.
    """
    path = folder / Path(name_of(record)).with_suffix(".npz")
    memory = io.BytesIO()
    np.savez_compressed(
        memory, allow_pickle=False, **{name: np.asarray(arrays[name], kind) for name, kind in PER_IMAGE.items()}
    )
    write_bytes(path, memory.getvalue())
    return {"file": path.name, "sha256": hashlib.sha256(memory.getvalue()).hexdigest()}


def per_image(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of PER_IMAGE, [images], of the record in the file `path`; None where the record names none, as older ones.

    Raises `UserError` where the arrays' file is missing or isn't the one that the run wrote.
    """
    named = read(path)["test"]["per_image"]
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
        arrays = {name: np.asarray(stored[name]) for name in PER_IMAGE}
    except (*DAMAGED_NUMPY, ValueError, LookupError) as error:
        raise UserError(f"The per-image results {file} lack an array or are damaged ({error}); run it again.") from error
    once = arrays["image"].ndim == 1 and len(np.unique(arrays["image"])) == len(arrays["image"])
    fits = all(array.shape == arrays["image"].shape and array.dtype == PER_IMAGE[name] for name, array in arrays.items())
    if not (once and fits and all(np.isfinite(array).all() for array in arrays.values())):
        raise UserError(f"The per-image results {file} aren't one finite number an image; run it again.")
    return arrays


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
        if path.name not in (name_of(record), name_of(record, hashed=False)):
            raise UserError(f"The record {path} is that of {name_of(record)}; give it this name, or remove it.")
    return records


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


def _fault(record: Any) -> str | None:
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
