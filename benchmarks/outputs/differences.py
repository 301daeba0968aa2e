"""Pairs of runs as a table of differences, and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import pairs, per_image, records
from benchmarks.harness.pairs import Difference, Speeds
from benchmarks.harness.record_schema import Record
from benchmarks.outputs.table import Part, Table, number
from common.errors import UserError
from common.estimators import standard_error

COLUMNS = ("of", "A", "B", "B − A", "verdict")
TITLES = {"elbo": "ELBO", "log_px": "log p(x)"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs compared; `notes`: sentences on what isn't compared, or not image by image."""

    paths: tuple[Path, Path]
    records: tuple[Record, Record]
    quality: dict[str, Difference]
    speed: Speeds | None
    notes: list[str]


def pair(paths: tuple[Path, Path]) -> Pair:
    """Raises `UserError` as `pairs.difference` does."""
    first, second = (records.read(path) for path in paths)
    scores, notes = [], []
    for path in paths:
        try:
            scores.append(per_image.read(path))
        except UserError as error:
            scores.append(None)
            notes.append(str(error))
    quality = pairs.difference(first, second, scores=(scores[0], scores[1]))
    if "log_px" not in quality:
        ks = [f"{record['test']['importance_samples']:,}" for record in (first, second)]
        notes.append(f"log p(x) isn't compared: K is {ks[0]} in A and {ks[1]} in B.")
    return Pair(paths=paths, records=(first, second), quality=quality, speed=pairs.speeds(first, second), notes=notes)


def verdict(difference: Difference) -> str:
    if difference.beyond_noise is None:
        return "its error is unknown"
    if difference.beyond_noise:
        return "B is higher" if difference.mean > 0 else "B is lower"
    return "no difference beyond noise" if difference.error else "identical"


def verdict_of_speed(speed: Speeds) -> str:
    if speed.beyond_spread is None:
        return "the spread is unknown"
    if speed.beyond_spread:
        return "B is faster" if speed.ratio > 1 else "B is slower"
    return "no difference beyond the spread"


def page(found: Sequence[Pair], *, keys: Sequence[str], labels: Sequence[Sequence[Any]]) -> list[Part]:
    """A table with a row for each quantity of a pair, and the lines under it. `labels`: each pair's values of the `keys`."""
    rows: list[list[str]] = []
    gaps = []
    for each, label in zip(found, labels, strict=True):
        gaps += [len(rows)] if rows else []
        rows += [[*map(str, label), *cells] for cells in _cells(each)]
    table = Table(columns=(*keys, *COLUMNS), rows=rows, left=(*keys, "of", "verdict"), gaps=gaps, keys=len(keys) + 1)
    return [table, "\n".join([*_over_seeds(found, keys=keys, labels=labels), *_lines(found, labels=labels)])]


def _cells(each: Pair) -> list[list[str]]:
    rows = []
    for name, difference in each.quality.items():
        of_each = [_with_error(record["test"][name], record["test"][f"{name}_se"], ".2f") for record in each.records]
        rows.append([TITLES[name], *of_each, _with_error(difference.mean, difference.error, "+.3f"), verdict(difference)])
    if each.speed:
        timings = [record["timing"] for record in each.records]
        speeds = [f"{t['examples_per_s']:,.0f} ({number(t['examples_per_s_iqr'], ',.0f')})" for t in timings]
        rows.append(["examples/s", *speeds, f"× {each.speed.ratio:.2f}", verdict_of_speed(each.speed)])
    return rows


def _with_error(value: float, error: float | None, form: str) -> str:
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form.lstrip('+')}}")


def _over_seeds(found: Sequence[Pair], *, keys: Sequence[str], labels: Sequence[Sequence[Any]]) -> list[str]:
    """A line for each group of pairs that differ from one another in their seed alone."""
    if "seed" not in keys:
        return []
    groups: dict[str, list[Pair]] = {}
    for each, label in zip(found, labels, strict=True):
        rest = " ".join(str(value) for key, value in zip(keys, label, strict=True) if key != "seed")
        groups.setdefault(rest, []).append(each)
    lines = []
    for rest, group in groups.items():
        said = []
        for name in pairs.QUANTITIES:
            means = np.array([each.quality[name].mean for each in group if name in each.quality])
            if len(means) == len(group) > 1:
                said.append(f"{TITLES[name]} {_with_error(means.mean(), standard_error(means), '+.3f')}")
        if said:
            lines.append(
                f"{rest + ', ' if rest else ''}{len(group)} seeds: {', '.join(said)}, ± the standard error over seeds."
            )
    return lines


def _lines(found: Sequence[Pair], *, labels: Sequence[Sequence[Any]]) -> list[str]:
    """In what the runs differ, how quality and speed were compared, and each pair's notes."""
    differing = [_apart(each) for each in found]
    common = {name: values for name, values in differing[0].items() if all(each.get(name) == values for each in differing)}
    rest = sorted({name for each in differing for name in each} - common.keys())
    said = [f"{name} {one} → {other}" for name, (one, other) in common.items()]
    said += [f"in some pairs {', '.join(rest)}"] if rest else []
    lines = [f"From A to B: {'; '.join(said) or 'nothing differs but the runs themselves'}."]
    images = {difference.images for each in found for difference in each.quality.values()}
    if counts := sorted(filter(None, images)):
        lines.append(
            f"Quality: in pairs of the same {' or '.join(f'{count:,}' for count in counts)} test images, nats; ± the standard "
            f"error of the mean difference; below {pairs.WITHIN:.0f} of them it is noise. It is over images: what another seed "
            "would change is not in it."
        )
    if None in images:
        whose = "Quality" if not counts else "Elsewhere"
        lines.append(
            f"{whose}: not in pairs of images, since a run has no results of each; ± is that of two independent means."
        )
    if any(each.speed for each in found):
        lines.append(
            "Speed: medians over chunks (interquartile ranges); no difference where they overlap, each about its median. "
            "Another day, machine, version or load changes speed by itself: `python -m benchmarks compare` times in turns."
        )
    for each, label in zip(found, labels, strict=True):
        lines += [f"{' '.join(map(str, label))}: {note}".removeprefix(": ") for note in each.notes]
    return lines


def _apart(each: Pair) -> dict[str, tuple[Any, Any]]:
    """`pairs.apart`, and the days of the two files."""
    days = tuple(date.fromtimestamp(path.stat().st_mtime).isoformat() for path in each.paths)
    return pairs.apart(*each.records) | ({"day": (days[0], days[1])} if days[0] != days[1] else {})


def as_data(found: Sequence[Pair]) -> list[dict[str, Any]]:
    """The pairs in JSON's types; "differences" is what `pairs.apart` says."""
    return [
        {
            "a": str(each.paths[0]),
            "b": str(each.paths[1]),
            "differences": _apart(each),
            "quality": {
                name: {
                    **{side: record["test"][name] for side, record in zip("ab", each.records, strict=True)},
                    **dataclasses.asdict(difference),
                    "paired": difference.paired,
                    "verdict": verdict(difference),
                }
                for name, difference in each.quality.items()
            },
            "speed": each.speed
            and {
                **{side: record["timing"]["examples_per_s"] for side, record in zip("ab", each.records, strict=True)},
                **dataclasses.asdict(each.speed),
                "verdict": verdict_of_speed(each.speed),
            },
            "notes": each.notes,
        }
        for each in found
    ]
