"""python -m benchmarks diff A B: two runs, or two folders of runs in pairs, compared image by image, and in speed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.harness import cli, pairs, records
from benchmarks.outputs import differences, terminal
from common.errors import UserError

Side = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="A record, or a folder of records.")]


@dataclasses.dataclass
class Diff:
    a: Side
    b: Side
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="The comparison as JSON.")] = False


def main(arguments: list[str]) -> int:
    description = "Two runs, or two folders of runs in pairs, compared image by image, and in speed."
    asked = cli.parse(Diff, arguments, command="diff", description=description)
    match = pairs.matching(records.given([asked.a]), records.given([asked.b]))
    found, labels, refused = [], [], []
    for paths, label in zip(match.pairs, match.labels, strict=True):
        try:
            found.append(differences.pair(paths))
            labels.append(label)
        except UserError as error:
            refused.append(str(error))
    if not found:
        raise UserError(refused[0])
    lines = [*refused]
    for side, alone_there in zip("AB", match.left_over, strict=True):
        lines += [f"Only in {side}: {', '.join(path.stem for path in alone_there)}."] if alone_there else []
    if asked.json:
        print(json.dumps(differences.as_data(found), indent=1))
        print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
        return 0
    alone = len(match.pairs) == 1
    sides = [match.pairs[0][i] if alone else folder for i, folder in enumerate((asked.a, asked.b))]
    heads = "\n".join(f"{side}: {path}" for side, path in zip("AB", sides, strict=True))
    parts = [heads, *differences.page(found, keys=match.keys, labels=labels), *(["\n".join(lines)] if lines else [])]
    terminal.page(parts, Console())
    return 0
