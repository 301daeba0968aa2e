"""Results that aren't one training run's: a JSON file each, from which tables of README.md and docs/ are made.

schema, report        1; the report's name
environment           {versions, commit, dirty, machine, threads, load, load_after}, and {commit_after, dirty_after} where
                      the code changed while it was measured; see `environment.describe` and `environment.ended`
…                     the content that the command gave
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ended
from benchmarks.harness.records import RECORDS
from common.errors import UserError
from common.files import write_text

Report = dict[str, Any]

REPORTS = RECORDS / "reports"  # the committed ones
SCHEMA = 1


def write(name: str, content: dict[str, Any], folder: Path, *, environment: dict[str, Any]) -> Path:
    """Write FOLDER/NAME.json: the content (JSON's types alone), beside where it was measured.

    `environment`: `environment.describe` of before measuring; how it ended is added here. Raises `UserError` where the file
    can't be written, `ValueError` for a number that isn't finite.
    """
    report = {"schema": SCHEMA, "report": name, "environment": ended(environment), **content}
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    path = folder / f"{name}.json"
    write_text(path, text)
    return path


def of_device(name: str, device: str) -> str:
    """The name of a report of which each kind of device has its own."""
    return name if device == "cpu" else f"{name}-{device}"


def read(name: str, folder: Path) -> Report | None:
    """The report of that name; None where there is none. Raises `UserError`, which names the file, for a malformed one."""
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
    """The commit that was measured, shortened, and whether the code was another, or became another meanwhile."""
    text = _short(environment["commit"], dirty=environment.get("dirty"))
    if "commit_after" in environment:
        after = _short(environment["commit_after"], dirty=environment["dirty_after"])
        text += f" at the start of measuring, {after} at its end"
    return text


def _short(commit: str | None, *, dirty: bool | None) -> str:
    return (commit or "unknown")[:12] + (" with uncommitted changes" if dirty else "")


def commits(hashes: list[str]) -> str:
    """The commits of a report's runs, shortened."""
    return ", ".join(one[:12] for one in hashes)


def where(environment: dict[str, Any], *, setting: str) -> str:
    """One line on where a result comes from: machine, `setting` (device and precision, say), versions, commit."""
    return f"{machine(environment, setting=setting)}; commit {commit(environment)}"


def machine(environment: dict[str, Any], *, setting: str) -> str:
    """`where`, without the commit."""
    processor, threads = environment["machine"] or {}, environment["threads"] or {}
    kind = ", ".join(processor[key] for key in ("model", "vectors") if processor.get(key))
    parts = [
        (processor.get("cpu") or "unknown machine") + (f" ({kind})" if kind else ""),
        processor.get("gpu"),
        f"{threads['cores']} cores" if threads.get("cores") else None,
        f"{processor['memory_bytes'] / 2**30:.1f} GiB" if processor.get("memory_bytes") else None,
        processor.get("os"),
        setting,
        ", ".join(f"{package} {version}" for package, version in (environment["versions"] or {}).items()),
    ]
    return "; ".join(part for part in parts if part)
