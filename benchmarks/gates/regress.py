"""`python -m benchmarks regress`: parity, quality and speed of this checkout, in this environment, against the baselines.

`benchmarks/baselines/` holds `numbers.json`, parity and quality, which hold on any machine; and a file of speed ratios for each
kind of machine. `--update` writes them whole, and is refused where parity is broken.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from benchmarks.gates import quality, speed
from benchmarks.gates.rows import COLUMNS, Row
from benchmarks.harness import cli, cores, environment, reports
from benchmarks.harness.cli import known, parse
from benchmarks.harness.environment import ROOT
from benchmarks.harness.reports import Report
from benchmarks.outputs import terminal
from benchmarks.outputs.table import Table
from benchmarks.parity import command as parity
from benchmarks.parity import ladder
from benchmarks.parity.command import BrokenRungError
from common.errors import UserError
from common.protocol import BACKENDS

BASELINES = ROOT / "benchmarks" / "baselines"
NUMBERS = "numbers"  # parity and quality
REPORT = "regress"
Part = Literal["parity", "quality", "speed"]
PARTS: tuple[Part, ...] = ("parity", "quality", "speed")
WRITES_ONE = "`python -m benchmarks regress --update` writes one"


@dataclasses.dataclass
class Regress:
    part: Annotated[tuple[Part, ...], tyro.conf.arg(help="One or more parts.")] = PARTS
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Whose rows; by default all of the baseline.")] = ()
    update: Annotated[
        bool, tyro.conf.arg(help="Write anew: with quality, parity's baseline too; with speed, the machine's.")
    ] = False
    baselines: Annotated[Path, tyro.conf.arg(help="Folder of the baselines.")] = BASELINES
    results: Annotated[Path, tyro.conf.arg(help="Folder for the report regress.json.")] = Path("results")


def main(arguments: list[str]) -> int:
    asked = parse(Regress, arguments, command="regress", description="After an upgrade: is anything worse than the baseline?")
    known(asked.backend)
    return update(asked) if asked.update else check(asked)


# --- the command's two ways ---


def update(asked: Regress) -> int:
    """Measure, and write the baselines.

    Raises `UserError` for a backend that is unavailable or fails, and where a baseline would lose a backend or say nothing.
    """
    names = list(asked.backend or BACKENDS)
    if asked.part == ("parity",):
        raise UserError("Parity's baseline is written with quality's; add --part parity quality.")
    if len(set(names)) < 2:
        raise UserError("A baseline compares backends; give --backend two or more, or leave it out for all.")
    for name in (NUMBERS, speed.machine()):
        earlier = reports.read(name, asked.baselines)
        if lost := sorted(set(earlier.get("backends", {}) if earlier else {}) - set(names)):
            path = asked.baselines / f"{name}.json"
            raise UserError(f"{path} has {', '.join(lost)} too, which would be lost; leave out --backend, or give --baselines.")
    versions, missing = described(names)
    if missing:
        raise UserError(f"A baseline needs every backend that it is asked for: {next(iter(missing.values()))}")
    found, broken = climbed(names)
    if broken:
        print(f"The baseline stays as it is, since parity is broken: {next(iter(broken.values()))}", file=sys.stderr)
        return 1
    common = {"backends": versions}
    if "quality" in asked.part:
        scores = quality.measure(names)
        if not quality.finite(scores):
            raise UserError(
                "A score isn't a finite number, which no baseline can have; `python -m benchmarks run` shows the run."
            )
        numbers = common | {"parity": found, "settings": quality.settings(), "quality": scores}
        print(f"Baseline: {reports.write(NUMBERS, numbers, asked.baselines)}")
    if "speed" in asked.part:
        rounds, trips = speed.measure(names)
        times = common | {"settings": speed.settings(), "rounds": rounds, "round_trips_ns": trips}
        print(f"Baseline: {reports.write(speed.machine(), times, asked.baselines)}")
    return 0


def check(asked: Regress) -> int:
    """Measure, and compare. Raises `UserError` where there is no baseline, or it can't be compared with."""
    numbers = baseline(NUMBERS, asked.baselines, settings=quality.settings())
    if numbers is None:
        raise UserError(f"There is no baseline {asked.baselines / NUMBERS}.json; {WRITES_ONE}.")
    times = baseline(speed.machine(), asked.baselines, settings=speed.settings()) if "speed" in asked.part else None
    wanted = list(asked.backend or numbers["backends"])
    # A pair's parity needs the other of the pair, and a step is held against every backend's floor.
    versions, missing = described(list(dict.fromkeys([*numbers["backends"], *wanted])))
    there, mine = list(versions), [name for name in wanted if name in versions]
    rows = [
        Row("backend", name, "-", "there", "unavailable", "-", "not run", missing[name]) for name in wanted if name in missing
    ]
    unknown = [name for name in mine if name not in numbers["backends"]]
    rows += [Row("backend", name, "-", "none", "there", "-", "no baseline") for name in unknown]
    trips: list[cores.RoundTrip] = []
    if "parity" in asked.part and mine:
        if len(there) > 1:
            rows += of(mine, parity_rows(numbers["parity"], *climbed(there)))
        else:
            rows.append(Row("parity", mine[0], "-", "-", "alone", "-", "not run"))
    if "quality" in asked.part and mine:
        rows += quality.judge(numbers["quality"], quality.measure(mine))
    if times and mine:

        def measure() -> list[speed.Round]:
            rounds, ends = speed.measure(there)
            trips.extend(ends)
            return rounds

        rows += of(mine, speed.twice(times["rounds"], measure(), again=measure))
    elif "speed" in asked.part:
        rows.append(Row("speed", "all", "-", "none", "not measured", "-", "no baseline"))
    bases = [base for base in (numbers, times) if base]
    content = {
        "changed": changes(bases),
        "baselines": [{"commit": base["environment"]["commit"], "versions": base["environment"]["versions"]} for base in bases],
        "round_trips_ns": {"baseline": times.get("round_trips_ns", []) if times else [], "now": trips},
        "rows": [dataclasses.asdict(found) for found in rows],
        "code": int(any(found.reason for found in rows)),
    }
    reports.write(REPORT, content, asked.results)
    report = reports.read(REPORT, asked.results)
    assert report is not None
    show(report, Console())
    if "speed" in asked.part and not times:
        print(f"Speed: no baseline for this machine ({speed.machine()}); {WRITES_ONE}.")
    if reason := first_reason(report):
        print(reason, file=sys.stderr)
    return int(report["code"])


def of(backends: list[str], rows: list[Row]) -> list[Row]:
    """The rows that one of these backends has a part in."""
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
            parity_rows(list(report["parity"]), report["parity"], {})
        else:
            speed.judge(report["rounds"], report["rounds"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"The baseline {path} is malformed ({error!r}); {WRITES_ONE}.") from error
    if theirs != settings:
        raise UserError(f"The baseline {path} was measured with other settings than this checkout has; {WRITES_ONE}.")
    return report


def described(names: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """(backend → its packages' versions, backend → why it is unavailable), each asked in a process of its own."""
    versions, missing = {}, {}
    for name in names:
        found, reason = cli.described(name)
        if found is None:
            missing[name] = reason
        else:
            versions[name] = found["versions"]
    return versions, missing


# --- parity ---


def climbed(names: list[str]) -> tuple[list[dict[str, Any]], dict[tuple[str, ...], str]]:
    """The small ladder: (the worst row of each precision, rung and pair that holds, pair → the sentence of its broken rung)."""
    scenarios, images = ladder.small(), parity.random_images(ladder.SMALL.model.pixels)
    holds: list[parity.Worst] = []
    broken: dict[tuple[str, ...], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            jobs = parity.measure(names, scenarios, images=images, folder=Path(folder), threads=1)
        except BrokenRungError as error:
            return [], {tuple(names): str(error)}
        done = {backend: job for backend, job in jobs.items() if isinstance(job, parity.Job)}
        for number, scenario in enumerate(scenarios):
            results = {backend: job.read(number) for backend, job in done.items()}
            for pair in itertools.combinations(results, 2):
                try:
                    holds += parity.compare(scenario, {backend: results[backend] for backend in pair}, scenario.rungs)
                except BrokenRungError as error:
                    broken.setdefault(pair, str(error))
    return parity.content(holds, {}, sizes="small", images="seeded random images")["rows"], broken


def parity_rows(base: list[dict[str, Any]], found: list[dict[str, Any]], broken: dict[tuple[str, ...], str]) -> list[Row]:
    """A row a broken pair; of the others one a precision, the rung nearest to what it allows."""
    rows = [Row("parity", " – ".join(pair), "both", "holds", "-", "-", "broken", reason) for pair, reason in broken.items()]
    before = {(row["dtype"], row["rung"], tuple(row["pair"])): row["deviation"] for row in base}
    for dtype, pair in dict.fromkeys((row["dtype"], tuple(row["pair"])) for row in found):
        if pair in broken:
            continue
        here = [row for row in found if (row["dtype"], tuple(row["pair"])) == (dtype, pair)]
        top = max(here, key=lambda row: row["deviation"] / (row["allowed"] or 1))
        old = before.get((dtype, top["rung"], pair))
        cells = (
            "-" if old is None else parity.figure(old),
            parity.figure(top["deviation"]),
            f"≤ {parity.figure(top['allowed'])}",
        )
        rows.append(Row(f"parity, {dtype}: {top['rung']}", " – ".join(pair), "both", *cells, "holds"))
    return rows


# --- the table ---


def changes(bases: list[Report]) -> list[str]:
    """The packages whose versions differ between these baselines and here: "jax 0.10.0 → 0.10.2"."""
    now = environment.versions()
    found = [
        f"{package} {before.get(package, 'none')} → {now.get(package, 'none')}"
        for before in (base["environment"]["versions"] for base in bases)
        for package in dict.fromkeys([*before, *now])
        if before.get(package) != now.get(package)
    ]
    return list(dict.fromkeys(found))


def first_reason(report: Report) -> str | None:
    return next((row["reason"] for row in report["rows"] if row["reason"]), None)


def heading(report: Report) -> list[str]:
    """What changed; and what the baseline and this were measured with."""
    changed = ", ".join(report["changed"]) or "no package's version"
    commits = dict.fromkeys((base["commit"] or "unknown")[:12] for base in report["baselines"])
    trips = report.get("round_trips_ns", {"now": []})
    lines = [
        f"Changed since the baseline: {changed}.",
        f"Baseline: commit {', '.join(commits)}; {_versions(report['baselines'][0])}.",
        f"Now: commit {reports.commit(report['environment'])}; {_versions(report['environment'])}.",
    ]
    if trips["now"]:  # cores that moved apart pass for a slower step
        lines.append(f"Beside the speed, in the baseline {cores.said(trips['baseline'])}; now {cores.said(trips['now'])}.")
    return lines


def _versions(environment: dict[str, Any]) -> str:
    return ", ".join(f"{package} {version}" for package, version in environment["versions"].items())


def cells(report: Report) -> list[list[str]]:
    return [[row[column] for column in COLUMNS] for row in report["rows"]]


def show(report: Report, console: Console) -> None:
    for line in heading(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    ends = [i for i, (a, b) in enumerate(itertools.pairwise(report["rows"]), 1) if a["family"] != b["family"]]
    left = ("what", "kind", "family", "backend", "verdict")
    terminal.show(Table(columns=COLUMNS, rows=cells(report), left=left, title="regress", gaps=ends), console)
