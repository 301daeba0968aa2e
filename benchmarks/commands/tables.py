"""python -m benchmarks tables: the tables of README.md and docs/, made from benchmarks/records/."""

from __future__ import annotations

from benchmarks.harness.cli import Nothing, parse
from benchmarks.outputs import documents, headline
from benchmarks.parity import checkpoints, comparison
from benchmarks.studies import skeleton

# Block name → (the report that it is made from, how).
BLOCKS: documents.Blocks = {
    "parity-worst": ("parity", headline.parity),
    "parity": ("parity", comparison.parts),
    "cross-evaluate": (checkpoints.REPORT, checkpoints.parts),
    **skeleton.blocks(),
}


def main(arguments: list[str]) -> int:
    parse(Nothing, arguments, command="tables", description="Write the tables of README.md and docs/ from benchmarks/records/.")
    documents.write(documents.bodies(BLOCKS))
    return 0
