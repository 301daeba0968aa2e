"""The report blocks of README.md and docs/*.md: what stands between `<!-- report: NAME -->` and `<!-- end report -->`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import ablation, agreement, bfloat16, cross_evaluate, overhead, parity, reports, shape_checks
from benchmarks.peers import ancestor, numpyro, turns
from benchmarks.regress import prove as prove_regress
from benchmarks.reports import REPORTS, Report
from benchmarks.throughput import growth_report, prove, roofline, suite
from common.errors import UserError
from common.files import write_text

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- report: (?P<name>[\w-]+) -->\n.*?<!-- end report -->", re.DOTALL)

# Block name → (the report that it is made from, how).
BLOCKS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "shape-checks": (shape_checks.NAME, shape_checks.table),
    "parity": ("parity", parity.markdown),
    "cross-evaluate": (cross_evaluate.REPORT, cross_evaluate.markdown),
    "throughput": ("throughput", suite.markdown),
    "machine": ("throughput", roofline.markdown),
    "throughput-cuda": ("throughput-cuda", suite.markdown),
    "machine-cuda": ("throughput-cuda", roofline.markdown),
    "compare-gate": ("compare-gate", prove.markdown),
    "overhead": (overhead.REPORT, overhead.table),
    "bfloat16": (bfloat16.REPORT, bfloat16.table),
    "ablation": ("ablation", ablation.table),
    "regress-demonstration": (prove_regress.REPORT, prove_regress.markdown),
    **{f"growth-{axis}": ("growth", functools.partial(growth_report.table, axis=axis)) for axis in growth_report.SETTINGS},
    "growth": ("growth", growth_report.measured),
    "agreement": ("agreement", agreement.table),
    "ancestor": (ancestor.REPORT, turns.markdown),
    "numpyro": (numpyro.REPORT, turns.markdown),
}


def documents(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str, *, folder: Path = REPORTS) -> str:
    """A document's text with each report block made anew. Raises `UserError` for a block that isn't in BLOCKS."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise UserError(f"There is no report block '{name}'; choose from {', '.join(BLOCKS) or 'none'}.")
        source, markdown = BLOCKS[name]
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


def write(*, root: Path = ROOT, folder: Path = REPORTS) -> None:
    """Make the blocks of every document from the reports."""
    for document in documents(root):
        write_text(document, filled(document.read_text(encoding="utf-8"), folder=folder))


def check(*, root: Path = ROOT, folder: Path = REPORTS) -> None:
    """Raises `UserError` where a document isn't what the reports say, or a block of BLOCKS stands in none."""
    found = set()
    for document in documents(root):
        text = document.read_text(encoding="utf-8")
        found |= {match["name"] for match in BLOCK.finditer(text)}
        if filled(text, folder=folder) != text:
            raise UserError(f"The tables of {document} differ from the reports in {folder}; run `make tables`.")
    if found != BLOCKS.keys():
        raise UserError(f"No document has a block for {', '.join(sorted(BLOCKS.keys() - found))}.")
