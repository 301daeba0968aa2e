"""python -m benchmarks tables: the tables of README.md and docs/, made from benchmarks/records/."""

from __future__ import annotations

from benchmarks.harness.cli import Nothing, parse
from benchmarks.outputs import documents, tables
from benchmarks.parity import checkpoints
from benchmarks.parity import command as parity
from benchmarks.studies import skeleton

# Block name → (the report that it is made from, how).
BLOCKS: documents.Blocks = {
    "parity": ("parity", parity.markdown),
    "cross-evaluate": (checkpoints.REPORT, checkpoints.markdown),
    **skeleton.blocks(),
}


def main(arguments: list[str]) -> int:
    parse(Nothing, arguments, command="tables", description="Write the tables of README.md and docs/ from benchmarks/records/.")
    tables.write()
    documents.write(BLOCKS)
    return 0
