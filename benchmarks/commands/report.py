"""python -m benchmarks report: one HTML page of the runs in one or more folders."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import track

from benchmarks.harness import cli, looks, per_image, records, reports
from benchmarks.harness.pairs import Scores
from benchmarks.outputs import headline, sweeps
from benchmarks.outputs.page import content, render
from benchmarks.outputs.page.content import Parity
from benchmarks.outputs.sweeps import Run
from benchmarks.parity import comparison
from common.errors import UserError
from common.files import write_text

MOST_LOOKED_AT = 60  # runs with pictures: a look takes seconds, and a page stays below 6 MB
SEED = 0  # of the images and latents that are drawn


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Report:
        folders: Annotated[
            tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER…", help="Folders of records, or records.")
        ] = (Path("results"),)
        output: Annotated[Path | None, tyro.conf.arg(help="The page; FOLDER/report.html by default.")] = None
        pictures: Annotated[bool, tyro.conf.arg(help="Pictures and posteriors from the checkpoints, seconds each.")] = True
        data: cli.Moved = ()
        data_dir: cli.DataDir = None

    asked = cli.parse(Report, arguments, command="report", description="One HTML page of the runs in folders.")
    found = records.given(asked.folders)
    folders = list(dict.fromkeys(path.parent for path in found))
    output = asked.output or folders[0] / "report.html"
    cli.writable(output.parent, remedy="give another as --output")
    runs = sweeps.runs(list(found.values()), folders=[str(path.parent) for path in found], paths=list(found))
    seen, missing = (
        look(runs, data=asked.data, data_dir=asked.data_dir)
        if asked.pictures
        else ({}, ["The page was made with --no-pictures."])
    )
    page = content.page(runs, scores=scores(runs), looks=seen, parity=parity(folders), missing=missing)
    text = render.html(page)
    write_text(output, text)
    print(f"Wrote {output} ({len(text.encode()) / 1e6:.1f} MB): open it in a browser.")
    return 0


def scores(runs: Sequence[Run]) -> dict[int, Scores]:
    """The results by image, by the run's place in `runs`, of those runs that keep them and whose file is whole."""
    found: dict[int, Scores] = {}
    for i, run in enumerate(runs):
        with contextlib.suppress(UserError):  # the findings then compare without pairs
            if arrays := per_image.read(run.path):
                found[i] = arrays
    return found


def look(runs: Sequence[Run], *, data: Sequence[str], data_dir: Path | None) -> tuple[dict[int, looks.Look], list[str]]:
    """(a look at each run whose checkpoint is there, by its place in `runs`; why other runs have none, a sentence each)."""
    paths = {i: records.checkpoint_beside(run.path, run.record) for i, run in enumerate(runs)}
    there = {i: path for i, path in paths.items() if path and path.exists()}
    missing = []
    if len(there) < len(runs):
        lacking = f"{len(runs) - len(there)} of these {len(runs)} records" if there else "these records"
        missing.append(f"No checkpoint lies beside {lacking}.")
    if len(there) > MOST_LOOKED_AT:
        missing.append(f"Pictures are of the first {MOST_LOOKED_AT} runs.")
    seen: dict[int, looks.Look] = {}
    settings: dict[str, Any] = {
        "images": content.ACROSS,
        "samples": 2 * content.ACROSS,
        "seed": SEED,
        "data": data,
        "data_dir": data_dir,
    }
    chosen = list(there.items())[:MOST_LOOKED_AT]
    console = Console(stderr=True)
    for i, path in track(chosen, "looking at checkpoints", console=console, disable=not (chosen and console.is_terminal)):
        try:
            seen[i] = looks.of(path, **settings)
        except UserError as error:
            missing.append(f"{path.name}: {error}")
    return seen, missing


def parity(folders: Sequence[Path]) -> Parity | None:
    """The parity report of the folders, else the committed one. Raises `UserError` for one that lacks what its table shows."""
    for folder in (*folders, reports.REPORTS):
        if report := reports.read("parity", folder):
            try:
                parts = comparison.parts(report)
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(f"The report {folder / 'parity.json'} lacks what its table shows; measure it again.") from error
            try:
                sentence = headline.parity(report)
            except LookupError:  # a report of some rungs alone
                sentence = ""
            source = (
                "The report that this project publishes." if folder == reports.REPORTS else f"From {folder / 'parity.json'}."
            )
            return Parity(sentence=sentence, parts=parts, source=source)
    return None
