"""Contenders in turns, A B C A B C …, each turn a fresh process; their ratios; and the report that these make.

A ratio is of two turns of one round, minutes apart at most: what slows the machine down for longer slows both. A row's
figure is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import cores, environment, reports
from benchmarks.harness.reports import Report

Row = dict[str, Any]
Turn = Callable[[], float]  # → examples/s of a fresh process

# What a peer's speed may depend on.
PACKAGES = ("torch", "jax", "jaxlib", "optax", "dm-haiku", "numpyro")
VERSIONS = """
import importlib.metadata, json, sys
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class NotRunError(Exception):
    """Why a contender has no figure, in one sentence."""


def output(
    command: list[str], *, name: str, folder: Path | None = None, variables: dict[str, str] | None = None, given: str = ""
) -> str:
    """What a process prints. Raises `NotRunError` with its last line where it can't be started or fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=variables, input=given, capture_output=True, text=True, encoding="utf-8", check=False
        )
    except OSError as error:
        raise NotRunError(f"{command[0]} can't be run ({error.strerror})") from error
    check(done.returncode, name=name, printed=done.stderr or done.stdout)
    return done.stdout


def check(code: int, *, name: str, printed: str) -> None:
    """Raises `NotRunError` with the last line that was printed for an exit code other than 0."""
    if code:
        lines = printed.strip().splitlines()
        raise NotRunError(f"{name} ended with code {code}: {lines[-1].strip() if lines else 'no message'}")


def versions(python: str, *, variables: dict[str, str] | None = None) -> dict[str, str]:
    """Those of PACKAGES that this Python has, given these environment variables. Raises `NotRunError` where it can't be run."""
    found: dict[str, str] = json.loads(output([python, "-c", VERSIONS, *PACKAGES], name=python, variables=variables))
    return found


def take(turns: dict[str, Turn], *, rounds: int, title: str) -> tuple[dict[str, list[float]], list[cores.RoundTrip]]:
    """examples/s of each contender, one figure a round; and how far apart the cores were at both ends of each turn.

    Raises `NotRunError` where a contender has no figure.
    """
    found: dict[str, list[float]] = {name: [] for name in turns}
    trips: list[cores.RoundTrip] = []
    for i in range(rounds):
        for name, turn in turns.items():
            speed, ends = cores.together(turn)
            found[name].append(speed)
            trips += ends
            print(f"{title}, round {i + 1} of {rounds}: {name} {found[name][-1]:,.0f} examples/s", file=sys.stderr)
    return found, trips


def row(*, peer: str, ours: str, family: str, device: str, steps: int, target: float | None) -> Row:
    """A row that has no result yet: `peer` beside `ours`, a preset in a backend, in turns of so many steps."""
    return {
        "peer": peer,
        "ours": ours,
        "variational": family,
        "device": device,
        "steps": steps,
        "target": target,
        "reason": None,
        "peer_versions": {},
        "peer_examples_per_s": [],
        "ours_examples_per_s": [],
        "round_trips_ns": [],
        "environment": environment.describe(device),
    }


def ratios(row: Row) -> list[float]:
    """ours / theirs, one a round."""
    pairs = zip(row["ours_examples_per_s"], row["peer_examples_per_s"], strict=True)
    return [ours / theirs for ours, theirs in pairs]


def key(row: Row) -> tuple[str, ...]:
    return row["peer"], row["ours"], row["variational"], row["device"]


def publish(
    name: str,
    rows: Iterable[Row],
    folder: Path,
    *,
    environment: dict[str, Any],
    among_all: Callable[[list[Row]], None] | None = None,
) -> Report:
    """The report with these rows among its earlier ones, written and returned. What wasn't run replaces no measurement.

    `among_all` may change what a row says of itself among all of them.
    """
    earlier = reports.read(name, folder)
    found = {key(row): row for row in (earlier["rows"] if earlier else [])}
    for row in rows:
        if row["reason"] is None or found.get(key(row), row)["reason"] is not None:
            found[key(row)] = row
    merged = list(found.values())
    if among_all:
        among_all(merged)
    path = reports.write(name, {"rows": merged}, folder, environment=environment)
    report = reports.read(name, path.parent)
    assert report is not None
    return report


def markdown(report: Report) -> str:
    """A row a pair of contenders: medians over the rounds, of the ratio with (least … most)."""
    lines = [
        "| peer | family | ours | their examples/s | our examples/s | ours / theirs (least … most) | rounds × steps | aim |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    places: dict[str, list[str]] = {}
    for row in report["rows"]:
        cells = [row["peer"], row["variational"], row["ours"]]
        if row["reason"] is None:
            found = ratios(row)
            theirs, ours = (statistics.median(row[f"{side}_examples_per_s"]) for side in ("peer", "ours"))
            cells += [f"{theirs:,.0f}", f"{ours:,.0f}"]
            cells += [
                f"{statistics.median(found):.2f} ({min(found):.2f} … {max(found):.2f})",
                f"{len(found)} × {row['steps']:,}",
            ]
            peers = ", ".join(f"{package} {version}" for package, version in row["peer_versions"].items())
            load = f"load {row['environment']['load']:.1f} before the first turn, {cores.said(row.get('round_trips_ns', []))}"
            where = reports.where(row["environment"], setting=f"{row['device']}, float32 unless a row says otherwise, {load}")
            places.setdefault(f"{where}. Theirs: {peers}.", []).append(f"{row['peer']} {row['variational']}")
        else:
            cells += ["", "", f"not run: {row['reason']}", ""]
        cells.append("" if row["target"] is None else f"≥ {row['target']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {', '.join(dict.fromkeys(names))}: {where}" for where, names in places.items())]
    return "\n".join(lines) + "\n"


def inherited(*, without: tuple[str, ...] = (), **variables: str) -> dict[str, str]:
    """This process's environment variables, some left out, some set."""
    return {name: value for name, value in os.environ.items() if name not in without} | variables
