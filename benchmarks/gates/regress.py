"""`python -m benchmarks regress`: parity, quality and speed of this checkout, in this environment, against the baselines.

`benchmarks/baselines/` has `numbers.json` with parity and quality, which are the same on any machine, and for each kind of
machine a file of speed ratios. `--update` writes the whole of both files, and is refused where parity is broken.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from benchmarks.gates import quality, rungs, speed
from benchmarks.gates.rows import COLUMNS, LEFT, Row
from benchmarks.harness import cli, cores, environment, reports
from benchmarks.harness.cli import known, parse
from benchmarks.harness.environment import ROOT
from benchmarks.harness.reports import Report
from benchmarks.outputs import terminal
from benchmarks.outputs.table import Table
from common.errors import UserError
from common.protocol import BACKENDS

BASELINES = ROOT / "benchmarks" / "baselines"
NUMBERS = "numbers"  # the baseline of parity and quality
REPORT = "regress"
Part = Literal["parity", "quality", "speed"]
PARTS: tuple[Part, ...] = ("parity", "quality", "speed")
WRITES_ONE = "`python -m benchmarks regress --update` writes one"


@dataclasses.dataclass
class Regress:
    part: Annotated[tuple[Part, ...], tyro.conf.arg(help="One or more parts.")] = PARTS
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Show these backends' rows; by default all of the baseline.")] = ()
    update: Annotated[
        bool, tyro.conf.arg(help="Write the baselines anew: with quality, parity's too; with speed, this machine's.")
    ] = False
    baselines: Annotated[Path, tyro.conf.arg(help="Folder of the baselines.")] = BASELINES
    results: Annotated[Path, tyro.conf.arg(help="Folder for the report regress.json.")] = Path("results")


def main(arguments: list[str]) -> int:
    asked = parse(Regress, arguments, command="regress", description="After an upgrade: is anything worse than the baseline?")
    known(asked.backend)
    here = environment.describe()
    return update(asked, here) if asked.update else check(asked, here)


def update(asked: Regress, here: dict[str, Any]) -> int:
    """Measure, and write the baselines.

    Raises `UserError` for a backend that is unavailable or fails, and where a baseline would lose a backend or say nothing.
    """
    names = list(asked.backend or BACKENDS)
    if asked.part == ("parity",):
        raise UserError("Parity's baseline is written with quality's; add --part parity quality.")
    if len(set(names)) < 2:
        raise UserError("A baseline compares backends; give --backend two or more, or leave it out for all.")
    for name in (NUMBERS, speed.machine()):
        earlier = reports.read(name, asked.baselines) or {}
        if lost := sorted(set(earlier.get("backends", ())) - set(names)):
            path = asked.baselines / f"{name}.json"
            raise UserError(f"{path} has {', '.join(lost)} too, which would be lost; leave out --backend, or give --baselines.")
    versions, missing = described(names)
    if missing:
        raise UserError(f"A baseline needs every backend that it is asked for: {next(iter(missing.values()))}")
    holds, broken = rungs.measure(names)
    if broken:
        print(f"The baseline stays as it is, since parity is broken: {next(iter(broken.values()))}", file=sys.stderr)
        return 1
    baselines: dict[str, dict[str, Any]] = {}
    if "quality" in asked.part:
        scores = quality.measure(names)
        if not quality.finite(scores):
            raise UserError("A score isn't finite, which no baseline can have; `python -m benchmarks run` shows the run.")
        baselines[NUMBERS] = {"parity": holds, "settings": quality.settings(), "quality": scores}
    if "speed" in asked.part:
        rounds, trips = speed.measure(names)
        baselines[speed.machine()] = {"settings": speed.settings(), "rounds": rounds, "round_trips_ns": trips}
    for name, content in baselines.items():
        print(f"Baseline: {reports.write(name, {'backends': versions} | content, asked.baselines, environment=here)}")
    return 0


def check(asked: Regress, here: dict[str, Any]) -> int:
    """Measure, and compare. Raises `UserError` where there is no baseline, or it can't be compared with."""
    numbers = baseline(NUMBERS, asked.baselines, settings=quality.settings())
    if numbers is None:
        raise UserError(f"There is no baseline {asked.baselines / NUMBERS}.json; {WRITES_ONE}.")
    times = baseline(speed.machine(), asked.baselines, settings=speed.settings()) if "speed" in asked.part else None
    wanted = list(asked.backend or numbers["backends"])
    # All backends of the baseline are measured: parity compares pairs, and a step is compared with every backend's floor.
    versions, missing = described(list(dict.fromkeys([*numbers["backends"], *wanted])))
    there, mine = list(versions), [name for name in wanted if name in versions]
    rows = [
        Row("backend", name, "-", "there", "unavailable", "-", "not run", missing[name]) for name in wanted if name in missing
    ]
    rows += [Row("backend", name, "-", "none", "there", "-", "no baseline") for name in mine if name not in numbers["backends"]]
    trips: list[cores.RoundTrip] = []

    def rounds() -> list[speed.Round]:
        done, ends = speed.measure(there)
        trips.extend(ends)
        return done

    if "parity" in asked.part and len(there) > 1:
        rows += of(mine, rungs.judge(numbers["parity"], *rungs.measure(there)))
    elif "parity" in asked.part and mine:
        rows.append(Row("parity", mine[0], "-", "-", "alone", "-", "not run"))
    if "quality" in asked.part and mine:
        rows += quality.judge(numbers["quality"], quality.measure(mine))
    if times and mine:
        rows += of(mine, speed.twice(times["rounds"], rounds(), again=rounds))
    elif "speed" in asked.part:
        rows.append(Row("speed", "all", "-", "none", "not measured", "-", "no baseline"))
    bases = [base for base in (numbers, times) if base]
    content = {
        "changed": changes(bases),
        "baselines": [{key: base["environment"][key] for key in ("commit", "versions")} for base in bases],
        "round_trips_ns": {"baseline": (times or {}).get("round_trips_ns", []), "now": trips},
        "rows": [dataclasses.asdict(row) for row in rows],
        "code": int(any(row.reason for row in rows)),
    }
    reports.write(REPORT, content, asked.results, environment=here)
    terminal.page(page(reports.read(REPORT, asked.results) or {}), Console())
    if "speed" in asked.part and not times:
        print(f"Speed: no baseline for this machine ({speed.machine()}); {WRITES_ONE}.")
    if first := next((row.reason for row in rows if row.reason), None):
        print(first, file=sys.stderr)
    return int(bool(first))


def of(backends: list[str], rows: list[Row]) -> list[Row]:
    """The rows of these backends, among them the pairs that have one of these backends."""
    return [row for row in rows if any(backend in row.backend.split(" – ") for backend in backends)]


def baseline(name: str, folder: Path, *, settings: dict[str, Any]) -> Report | None:
    """The baseline of that name; None where there is none. Raises `UserError` for a malformed one, or one of other settings."""
    path = folder / f"{name}.json"
    report = reports.read(name, folder)
    if report is None:
        return None
    try:
        theirs = report["settings"]
        _ = dict(report["backends"]), report["environment"]["versions"], report["environment"]["commit"]
        if name == NUMBERS:
            quality.judge(report["quality"], report["quality"])
            rungs.judge(list(report["parity"]), report["parity"], {})
        else:
            speed.judge(report["rounds"], report["rounds"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"The baseline {path} is malformed ({error!r}); {WRITES_ONE}.") from error
    if theirs != settings:
        raise UserError(f"The baseline {path} was measured with other settings than this checkout has; {WRITES_ONE}.")
    return report


def described(names: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """(backend → its packages' versions, backend → why it is unavailable), each asked in a process of its own."""
    answers = {name: cli.described(name) for name in names}
    versions = {name: description["versions"] for name, (description, _) in answers.items() if description}
    return versions, {name: reason for name, (_, reason) in answers.items() if name not in versions}


# --- the page ---


def changes(bases: list[Report]) -> list[str]:
    """The packages whose versions differ between these baselines and here: "jax 0.10.0 → 0.10.2"."""
    now = environment.versions()
    changed: list[str] = []
    for base in bases:
        before = base["environment"]["versions"]
        names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
        changed += [f"{name} {before.get(name, 'none')} → {now.get(name, 'none')}" for name in names]
    return list(dict.fromkeys(changed))


def page(report: Report) -> list[str | Table]:
    """The packages that changed, the commits and versions of both sides, the latencies, and the table."""
    bases, trips = report["baselines"], report["round_trips_ns"]
    commits = dict.fromkeys((base["commit"] or "unknown")[:12] for base in bases)
    lines = [
        f"Changed since the baseline: {', '.join(report['changed']) or 'no package has another version'}.",
        f"Baseline: commit {', '.join(commits)}; {reports.versions(bases[0])}.",
        f"Now: commit {reports.commit(report['environment'])}; {reports.versions(report['environment'])}.",
    ]
    if trips["now"]:  # cores that moved apart pass for a slower step
        lines.append(f"Beside the speed, in the baseline {cores.said(trips['baseline'])}; now {cores.said(trips['now'])}.")
    gaps = [i for i, (a, b) in enumerate(itertools.pairwise(report["rows"]), 1) if a["family"] != b["family"]]
    rows = [[row[column] for column in COLUMNS] for row in report["rows"]]
    return ["\n".join(lines), Table(columns=COLUMNS, rows=rows, left=LEFT, title="regress", gaps=gaps)]
