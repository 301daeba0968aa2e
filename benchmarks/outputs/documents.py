"""The generated blocks of README.md and docs/*.md: the lines from `<!-- KIND: NAME -->` to `<!-- end KIND -->`.

KIND is "table" for a published table of runs, "report" for a block made from a report. Each block stands in one document.
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
from common.errors import UserError, unknown
from common.files import write_text

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- (?P<block>(?P<kind>table|report): [\w-]+) -->\n(?P<body>.*?)<!-- end (?P=kind) -->", re.DOTALL)

Blocks = Mapping[str, tuple[str, Callable[[Report], str | Sequence[Part]]]]  # name → (report, function from it to a page)
Bodies = Mapping[str, str]  # "KIND: NAME" → the block's Markdown


def documents(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def bodies(blocks: Blocks, *, folder: Path = RECORDS, of_reports: Path = REPORTS) -> Bodies:
    """The bodies of the published tables and of `blocks`. Raises `UserError` for a report that lacks what its block shows."""
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
    """A document's text with the bodies of `made` in its blocks. Raises `UserError` for a block that `made` lacks."""

    def block(match: re.Match[str]) -> str:
        name = match["block"]
        if name not in made:
            raise unknown("block", name, made or ("none",))
        return f"<!-- {name} -->\n{made[name]}<!-- end {match['kind']} -->"

    return BLOCK.sub(block, text)


def write(made: Bodies, *, root: Path = ROOT) -> None:
    """Fill the blocks of every document. Raises `UserError` as `filled` does, before anything is written."""
    texts = {document: filled(document.read_text(encoding="utf-8"), made) for document in documents(root)}
    for document, text in texts.items():
        write_text(document, text)


def check(made: Bodies, *, root: Path = ROOT) -> None:
    """Raises `UserError` where a document differs from the records, or a block doesn't stand in exactly one document."""
    found: list[str] = []
    for document in documents(root):
        text = document.read_text(encoding="utf-8")
        for old, new in zip(BLOCK.finditer(text), BLOCK.finditer(filled(text, made)), strict=True):
            found.append(old["block"])
            lines = itertools.zip_longest(old["body"].splitlines(), new["body"].splitlines(), fillvalue="")
            for line, wanted in lines:
                if line != wanted:
                    raise UserError(
                        f"In {document} the block '{old['block']}' differs from what was measured: it has '{line}' where "
                        f"'{wanted}' belongs; run `make tables`."
                    )
    for name in made:
        if found.count(name) != 1:
            raise UserError(f"One document must have the block '{name}', but {found.count(name) or 'no'} documents have it.")
