"""python -m benchmarks tables: the tables of README.md and docs/, made from benchmarks/records/."""

from __future__ import annotations

from benchmarks.harness import peers
from benchmarks.harness.cli import Nothing, parse
from benchmarks.outputs import documents, headline
from benchmarks.parity import checkpoints, comparison
from benchmarks.studies import ancestor, numpyro, overhead, roofline, skeleton, throughput

# Block name → (the report that it is made from, how).
BLOCKS: documents.Blocks = {
    "parity-worst": ("parity", headline.parity),
    "parity": ("parity", comparison.parts),
    "cross-evaluate": (checkpoints.REPORT, checkpoints.parts),
    "throughput": ("throughput", throughput.markdown),
    "machine": ("throughput", roofline.markdown),
    "throughput-cuda": ("throughput-cuda", throughput.markdown),
    "machine-cuda": ("throughput-cuda", roofline.markdown),
    "overhead": (overhead.REPORT, overhead.table),
    **skeleton.blocks(),
    "ancestor": (ancestor.REPORT, peers.markdown),
    "numpyro": (numpyro.REPORT, peers.markdown),
}


def main(arguments: list[str]) -> int:
    parse(Nothing, arguments, command="tables", description="Write the tables of README.md and docs/ from benchmarks/records/.")
    documents.write(documents.bodies(BLOCKS))
    return 0
