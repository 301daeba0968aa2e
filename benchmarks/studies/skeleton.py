"""What all studies share: arguments, points in fresh processes, resumption, the report, its table and figure.

A study is a file of this folder, found by its name. It says:

    Arguments                   a dataclass: this file's Arguments or DataArguments, and the study's own
    plan(asked)                 → {title: point}: what is measured, in the order of turns; a point is plain JSON
    measure(point)              → result, plain JSON, called in a fresh process; {"reason": …} where it failed and others go on
    content(asked, measured)    → the report's content; `measured` is [(point, result)] in the plan's order
    parts(report)               → the report's tables and paragraphs

and, where the study has it:

    check(asked)                raises `UserError` for arguments that make no sense, before anything is measured
    shown(asked)                → parts to show in place of measuring, where the arguments ask for them; else none
    run(point)                  → result; called in the command's own process in place of `measure`, and starts processes itself
    draw(report, path)          writes the figure; FIGURE is its name, where that isn't the study's
    BLOCKS                      {block of docs/: (report, parts)}, where one block doesn't show the whole report
    failed(report)              whether the command ends with exit code 1, the report written
    ACROSS                      ("commit",): --resume keeps points of another commit, and each result has its own `commit`

`title` is a file's name. A result with a `reason` is a failure: --resume measures its point anew. The skeleton adds "resume" to
each point: whether a run may use the checkpoints and records in the results folder. A study whose Arguments have `backend`
plans with the backends that can be used here; one with `device` has a report, a figure and points for each kind of device.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.harness import cores, environment, processes, reports
from benchmarks.harness.cli import Data, DataDir, parse, usable
from benchmarks.harness.environment import ROOT
from benchmarks.outputs import documents, terminal
from common import data
from common.config import Device
from common.data import Dataset
from common.errors import UserError, unknown
from common.files import write_text

Point = dict[str, Any]
Result = dict[str, Any]
Measured = list[tuple[Point, Result]]
Study = Any  # a module that says what this file's docstring lists

APART = ("__init__", "command", "skeleton")  # files of this folder that are no studies
FIGURES = ROOT / "docs" / "figures"


@dataclass(kw_only=True)
class Arguments:
    results: Path = Path("results")  # `asked` gives each study a folder of its own
    resume: Annotated[bool, tyro.conf.arg(help="Keep the points that the same code measured on this machine.")] = False
    limit: Annotated[float, tyro.conf.arg(help="Begin no measurement after so many minutes; --resume goes on.")] = math.inf
    draw: Annotated[
        bool, tyro.conf.arg(help="Draw the committed report's figure, or that of --results, and measure nothing.")
    ] = False


@dataclass(kw_only=True)
class DataArguments(Arguments):
    data: Data = "binarized-mnist"
    data_dir: DataDir = None

    def dataset(self) -> Dataset:
        return data.load(self.data, data_dir=self.data_dir, binarize=None)


def grouped(rows: Iterable[Result], *names: str) -> dict[tuple[Any, ...], list[Result]]:
    """The rows that agree in these values, in the order in which each group's first row comes."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


# --- finding ---


def names() -> list[str]:
    """Every study's name."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in APART)


def load(name: str) -> Study:
    """Raises `UserError` for a name that is no study's."""
    if name not in names():
        raise unknown("study", name, names())
    return importlib.import_module(f"{__package__}.{name}")


def name_of(study: Study) -> str:
    return str(study.__name__).rpartition(".")[2]


def first_line(study: Study) -> str:
    """The first sentence of the study's file: what it measures."""
    return str(study.__doc__).strip().splitlines()[0]


def blocks() -> documents.Blocks:
    """Block of docs/ → (its report, its parts), of every study."""
    found: dict[str, Any] = {}
    for name in names():
        study = load(name)
        found |= getattr(study, "BLOCKS", {name: (name, study.parts)})
    return found


# --- measuring ---


def main(study: Study, arguments: list[str]) -> int:
    """Measure the study's points, write the report, show its tables and draw its figure."""
    name = name_of(study)
    asked = _asked(study, arguments)
    device: Device = getattr(asked, "device", "cpu")
    report_name = reports.of_device(name, device)
    figure = f"{reports.of_device(getattr(study, 'FIGURE', name), device)}.png"
    if asked.draw:
        return _redrawn(study, asked, report_name, figure)
    if shown := hasattr(study, "shown") and study.shown(asked):
        terminal.page(shown, Console())
        return 0
    asked.results = asked.results.resolve()  # a point's process may run in another folder
    if isinstance(asked, DataArguments):
        asked.data, asked.data_dir = data.whole_name(asked.data), asked.data_dir and asked.data_dir.absolute()
    cores.within()  # refused here, not in each point
    if hasattr(study, "check"):
        study.check(asked)
    if hasattr(asked, "backend"):
        asked.backend = usable(asked.backend, device=device)
    before = environment.describe(device)
    points = study.plan(asked)
    if not points:
        raise UserError("The arguments leave nothing to measure; `--help` lists them.")
    measured = _measured(study, points, asked, environment=before)
    if measured is None:
        print("The time of --limit ended before all was measured: --resume goes on.", file=sys.stderr)
        return 1
    path = reports.write(report_name, study.content(asked, measured), asked.results, environment=before)
    report = reports.read(report_name, asked.results)
    terminal.page(study.parts(report), Console())
    print(f"The report is {path}.", file=sys.stderr)
    if hasattr(study, "draw"):
        try:
            study.draw(report, path.with_name(figure))
            print(f"The figure is {path.with_name(figure)}.", file=sys.stderr)
        except UserError as error:  # a part of the study may have a table alone
            print(f"No figure: {error}", file=sys.stderr)
    return int(hasattr(study, "failed") and study.failed(report))


def _asked(study: Study, arguments: list[str]) -> Any:
    """The study's arguments, parsed; results/NAME is the results folder unless another is given."""
    results = Annotated[Path, tyro.conf.arg(help="Folder of the points, the report and its figure.")]
    own = dataclasses.make_dataclass(
        "Arguments",
        [("results", results, field(default=Path("results") / name_of(study)))],
        bases=(study.Arguments,),
        kw_only=True,
    )
    return parse(own, arguments, command=f"study {name_of(study)}", description=first_line(study))


def _redrawn(study: Study, asked: Any, name: str, figure: str) -> int:
    """Draw the figure of a report that is there. Raises `UserError` where the study has no figure, or the report is missing."""
    if not hasattr(study, "draw"):
        raise UserError(f"The study {name_of(study)} has no figure.")
    committed = asked.results == Path("results") / name_of(study)
    folder, target = (reports.REPORTS, FIGURES) if committed else (asked.results, asked.results)
    report = reports.read(name, folder)
    if report is None:
        raise UserError(f"There is no report '{name}' in {folder}; `make study-{name_of(study)}` measures one.")
    study.draw(report, target / figure)
    print(target / figure)
    return 0


def _measured(study: Study, points: dict[str, Point], asked: Any, *, environment: dict[str, Any]) -> Measured | None:
    """Each point with its result, kept in FOLDER/points/TITLE.json; None where the time is over."""
    place = {key: environment[key] for key in ("versions", "machine")} | {"commit": reports.commit(environment)}
    folder = asked.results / reports.of_device("points", getattr(asked, "device", "cpu"))
    across = getattr(study, "ACROSS", ())
    end = time.monotonic() + 60 * asked.limit
    found: Measured = []
    for number, (title, planned) in enumerate(points.items(), 1):
        point = json.loads(json.dumps(planned))  # as the file has it
        path = folder / f"{title}.json"
        result = _kept(path, point | place, across=across) if asked.resume else None
        if result is None:
            if time.monotonic() > end:
                return None
            print(f"{number} of {len(points)}: {title}", file=sys.stderr)
            question = point | {"resume": asked.resume}
            if hasattr(study, "run"):
                result = study.run(question)
            else:
                result = processes.ask(f"{study.__name__}:measure", question, title=title)
            write_text(path, json.dumps({"of": point | place, "result": result}, allow_nan=False) + "\n")
            result |= {key: place[key] for key in across}
        found.append((point, result))
    return found


def _kept(path: Path, now: dict[str, Any], *, across: Iterable[str]) -> Result | None:
    """The file's result; None where the file is missing, holds a failure, or another point, commit, machine or version.

    `across`: the keys whose values may differ, the commit, say; the result has the file's values of these keys.

    Raises `UserError` where the file can't be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        then, result = dict(found["of"]), dict(found["result"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"The point {path} can't be read ({error!r}); remove it, or leave out --resume.") from error
    if result.get("reason"):
        return None
    was = {key: then.get(key) for key in across}
    if then == now | was:
        return result | was
    other = next(key for key in (*now, *then) if key not in was and then.get(key) != now.get(key))
    print(f"{path} is of another {other}: measured anew.", file=sys.stderr)
    return None
