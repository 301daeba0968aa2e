"""The generated blocks of README.md and docs/*.md: the lines from `<!-- KIND: NAME -->` to `<!-- end KIND -->`.

KIND is "table" for a published table of runs, "report" for what was measured otherwise. Any document may have any block; each
block stands in one document.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.harness import records, reports
from benchmarks.harness.records import RECORDS
from benchmarks.harness.reports import REPORTS, Report
from benchmarks.outputs import markdown, published
from benchmarks.outputs.table import Part
from common.errors import UserError
from common.files import write_text

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- (?P<block>(?P<kind>table|report): [\w-]+) -->\n(?P<body>.*?)<!-- end (?P=kind) -->", re.DOTALL)

Blocks = Mapping[str, tuple[str, Callable[[Report], str | Sequence[Part]]]]  # of a report: name → (the report, what to show)
Bodies = Mapping[str, str]  # "KIND: NAME" → the block's Markdown


def documents(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def bodies(blocks: Blocks, *, folder: Path = RECORDS, of_reports: Path = REPORTS) -> Bodies:
    """The published tables' blocks, and `blocks`. Raises `UserError` for a report that lacks what its block shows."""
    found = records.read_all(folder)
    made = {f"table: {name}": markdown.page(published.parts(name, found)) for name in published.BLOCKS}
    for name, (source, show) in blocks.items():
        report = reports.read(source, of_reports)
        try:
            parts = "Not measured yet." if report is None else show(report)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            fault = f"{type(error).__name__}: {error}"
            path = of_reports / f"{source}.json"
            raise UserError(f"The report {path} lacks what its block shows ({fault}); measure it again.") from error
        made[f"report: {name}"] = markdown.page([parts] if isinstance(parts, str) else parts)
    return made


def filled(text: str, made: Bodies) -> str:
    """A document's text with each block made anew. Raises `UserError` for a block that isn't in `made`."""

    def block(match: re.Match[str]) -> str:
        name = match["block"]
        if name not in made:
            raise UserError(f"There is no block '{name}'; choose from {', '.join(made) or 'none'}.")
        return f"<!-- {name} -->\n{made[name]}<!-- end {match['kind']} -->"

    return BLOCK.sub(block, text)


def write(made: Bodies, *, root: Path = ROOT) -> None:
    """Make the blocks of every document. Raises `UserError` as `filled` does, before anything is written."""
    texts = {document: filled(document.read_text(encoding="utf-8"), made) for document in documents(root)}
    for document, text in texts.items():
        write_text(document, text)


def check(made: Bodies, *, root: Path = ROOT) -> None:
    """Raises `UserError` where a document differs from the records, or a block doesn't stand in exactly one document."""
    found: list[str] = []
    for document in documents(root):
        text = document.read_text(encoding="utf-8")
        here = list(BLOCK.finditer(text))
        found += [match["block"] for match in here]
        for match, new in zip(here, BLOCK.finditer(filled(text, made)), strict=True):
            if match["body"] != new["body"]:
                pairs = itertools.zip_longest(match["body"].splitlines(), new["body"].splitlines(), fillvalue="")
                old, wanted = next(pair for pair in pairs if pair[0] != pair[1])
                raise UserError(
                    f"In {document} the block '{match['block']}' differs from what was measured: it has '{old}' where "
                    f"'{wanted}' belongs; run `make tables`."
                )
    for name in made:
        if found.count(name) != 1:
            places = "no document has one" if name not in found else f"the documents have {found.count(name)}"
            raise UserError(f"One document must have the block '{name}', and {places}.")
