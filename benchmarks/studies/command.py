"""python -m benchmarks study NAME: one of the studies, each a file of this folder."""

from __future__ import annotations

from benchmarks.studies import skeleton
from common.errors import UserError


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print("python -m benchmarks study NAME …        NAME --help says more\n")
        for name in skeleton.names():
            print(f"  {name:<12} {skeleton.first_line(skeleton.load(name))}")
        return 0
    if not arguments:
        raise UserError(f"Which study? Choose from {', '.join(skeleton.names())}.")
    name, *rest = arguments
    return skeleton.main(skeleton.load(name), rest)
