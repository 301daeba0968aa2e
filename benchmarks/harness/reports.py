"""A report: the JSON file of a result that isn't one training run's; tables of README.md and docs/ are made from reports.

schema, report        1; the report's name
environment           see `environment.describe` and `environment.ended`
…                     the content that the command gave
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ended
from benchmarks.harness.records import RECORDS
from common.errors import UserError
from common.files import read_text, write_text

Report = dict[str, Any]

REPORTS = RECORDS / "reports"  # the committed ones
SCHEMA = 1


def write(name: str, content: dict[str, Any], folder: Path, *, environment: dict[str, Any]) -> Path:
    """Write the content (JSON's types alone) to FOLDER/NAME.json, which is returned.

    `environment`: `environment.describe()` from before measuring; `ended` completes it here. Raises `UserError` where the file
    can't be written, `ValueError` for a number that isn't finite.
    """
    report = {"schema": SCHEMA, "report": name, "environment": ended(environment), **content}
    path = folder / f"{name}.json"
    write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    return path


def of_device(name: str, device: str) -> str:
    """The name of a device's own report: NAME on the CPU, NAME-cuda on a GPU."""
    return name if device == "cpu" else f"{name}-{device}"


def read(name: str, folder: Path) -> Report | None:
    """The report FOLDER/NAME.json; None where there is no such file. Raises `UserError` for a malformed one."""
    path = folder / f"{name}.json"
    try:
        report = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The report {path} can't be read ({error}); remove it or measure it again.") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or report.get("report") != name:
        raise UserError(f"The report {path} is not a report '{name}' of schema {SCHEMA}; remove it or measure it again.")
    return report


def commit(environment: dict[str, Any]) -> str:
    """The measured commit, shortened, and whether it had uncommitted changes; the same of the end, where the code changed."""

    def short(end: str) -> str:
        dirty = " with uncommitted changes" if environment.get(f"dirty{end}") else ""
        return (environment[f"commit{end}"] or "unknown")[:12] + dirty

    if "commit_after" in environment:
        return f"{short('')} at the start of measuring, {short('_after')} at its end"
    return short("")


def commits(hashes: list[str]) -> str:
    """The commits of a report's runs, shortened."""
    return ", ".join(one[:12] for one in hashes)


def where(environment: dict[str, Any], *, setting: str) -> str:
    """Where a result was measured, in one line: machine, `setting` (device and precision, say), versions, commit."""
    return f"{machine(environment, setting=setting)}; commit {commit(environment)}"


def machine(environment: dict[str, Any], *, setting: str) -> str:
    """As `where`, without the commit."""
    processor, threads = environment["machine"] or {}, environment["threads"] or {}
    kind = ", ".join(processor[key] for key in ("model", "vectors") if processor.get(key))
    parts = [
        (processor.get("cpu") or "unknown machine") + (f" ({kind})" if kind else ""),
        processor.get("gpu"),
        f"{threads['cores']} cores" if threads.get("cores") else None,
        f"{processor['memory_bytes'] / 2**30:.1f} GiB" if processor.get("memory_bytes") else None,
        processor.get("os"),
        setting,
        versions(environment),
    ]
    return "; ".join(filter(None, parts))


def versions(environment: dict[str, Any]) -> str:
    """The packages and their versions, in one line."""
    return ", ".join(f"{package} {version}" for package, version in (environment["versions"] or {}).items())
