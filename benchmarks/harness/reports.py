"""Measured results that aren't one training run: a JSON file each, from which tables of README.md and docs/ are made.

schema, report        1; the report's name
environment           {versions, commit, dirty, machine, threads, load}, from `environment.describe`
…                     what the command that measured it says
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import environment
from benchmarks.harness.records import RECORDS
from common.errors import UserError
from common.files import write_text

Report = dict[str, Any]

REPORTS = RECORDS / "reports"  # what is committed
SCHEMA = 1


def write(name: str, content: dict[str, Any], folder: Path) -> Path:
    """Write FOLDER/NAME.json: the content (JSON's types alone, no NaN), beside where and on what it was measured.

    Raises `UserError` where the file can't be written, `ValueError` for a number that isn't finite.
    """
    report = {"schema": SCHEMA, "report": name, "environment": environment.describe(content.get("device", "cpu")), **content}
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    path = folder / f"{name}.json"
    write_text(path, text)
    return path


def of_device(name: str, device: str) -> str:
    """The name of a report that each kind of device has of its own."""
    return name if device == "cpu" else f"{name}-{device}"


def read(name: str, folder: Path) -> Report | None:
    """The report of that name; None where there is none. Raises `UserError` that names a file which is malformed."""
    path = folder / f"{name}.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"The report {path} can't be read ({error}); remove it or measure it again.") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or report.get("report") != name:
        raise UserError(f"The report {path} is not a report '{name}' of schema {SCHEMA}; remove it or measure it again.")
    return report


def commit(environment: dict[str, Any]) -> str:
    """The commit that a result was measured at, shortened."""
    return (environment["commit"] or "unknown")[:12] + (" with uncommitted changes" if environment.get("dirty") else "")


def commits(hashes: list[str]) -> str:
    """Those that a report's runs were of, shortened."""
    return ", ".join(one[:12] for one in hashes)


def measured(environment: dict[str, Any], *, setting: str) -> str:
    """One line on where a result comes from: machine, `setting` (device and precision, say), versions, commit."""
    return f"{machine(environment, setting=setting)}; commit {commit(environment)}"


def machine(environment: dict[str, Any], *, setting: str) -> str:
    """`measured`, without the commit."""
    found, threads = environment["machine"] or {}, environment["threads"] or {}
    kind = ", ".join(found[key] for key in ("model", "vectors") if found.get(key))
    parts = [
        (found.get("cpu") or "unknown machine") + (f" ({kind})" if kind else ""),
        found.get("gpu"),
        f"{threads['cores']} cores" if threads.get("cores") else None,
        f"{found['memory_bytes'] / 2**30:.1f} GiB" if found.get("memory_bytes") else None,
        found.get("os"),
        setting,
        ", ".join(f"{package} {version}" for package, version in (environment["versions"] or {}).items()),
    ]
    return "; ".join(part for part in parts if part)
