"""The report blocks of README.md and docs/*.md: what stands between `<!-- report: NAME -->` and `<!-- end report -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.harness import reports
from benchmarks.harness.reports import REPORTS, Report
from common.errors import UserError
from common.files import write_text

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- report: (?P<name>[\w-]+) -->\n.*?<!-- end report -->", re.DOTALL)

Blocks = Mapping[str, tuple[str, Callable[[Report], str]]]  # block name → (the report that it is made from, how)


def documents(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str, blocks: Blocks, *, folder: Path = REPORTS) -> str:
    """A document's text with each report block made anew. Raises `UserError` for a block that isn't in `blocks`."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in blocks:
            raise UserError(f"There is no report block '{name}'; choose from {', '.join(blocks) or 'none'}.")
        source, markdown = blocks[name]
        report = reports.read(source, folder)
        try:
            body = "Not measured yet.\n" if report is None else markdown(report).rstrip("\n") + "\n"
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            fault = f"{type(error).__name__}: {error}"
            raise UserError(
                f"The report {folder / source}.json lacks what its table shows ({fault}); measure it again."
            ) from error
        return f"<!-- report: {name} -->\n{body}<!-- end report -->"

    return BLOCK.sub(block, text)


def write(blocks: Blocks, *, root: Path = ROOT, folder: Path = REPORTS) -> None:
    """Make the blocks of every document from the reports."""
    for document in documents(root):
        write_text(document, filled(document.read_text(encoding="utf-8"), blocks, folder=folder))


def check(blocks: Blocks, *, root: Path = ROOT, folder: Path = REPORTS) -> None:
    """Raises `UserError` where a document isn't what the reports say, or a block of `blocks` stands in none."""
    found = set()
    for document in documents(root):
        text = document.read_text(encoding="utf-8")
        found |= {match["name"] for match in BLOCK.finditer(text)}
        if filled(text, blocks, folder=folder) != text:
            raise UserError(f"The tables of {document} differ from the reports in {folder}; run `make tables`.")
    if found != blocks.keys():
        raise UserError(f"No document has a block for {', '.join(sorted(blocks.keys() - found))}.")
