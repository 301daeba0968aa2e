"""Sentences computed from records: which backend trains faster, whether the backends agree, what the flow gains, what is best.

Runs are compared within a setup: one data set, preset, set of changed settings, family, device and precision. A difference of
log p(x) is noise where it lies within its own 95 % interval around 0, in which all pairs of a sentence share the 5 %
(Bonferroni). With several seeds of either side the interval is over seeds (Welch's t); else it is over test images, in pairs of
the same image where both runs kept them. Nothing is said of runs that can't be compared: on other machines, without a result.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.harness import pairs, records
from benchmarks.harness.pairs import Scores
from benchmarks.harness.records import Record
from common.config import FAMILIES
from common.protocol import BACKENDS

NAMES = dict(zip(BACKENDS, ("PyTorch", "JAX", "TensorFlow"), strict=True))
LEVEL = 0.05  # the chance that a sentence calls noise a difference
NOTABLE = 1.15  # a ratio of speeds from which it is said as "1.2 times", below as "5% more"
WORDS = {2: "two", 3: "three"}

Scored = tuple[Record, Scores | None]  # a record, and its results by image where they are kept


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence, and the runs that it is about in a few words; "" for all."""

    about: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of mean log p(x) in nats, its standard error, what the error is over, and the error's degrees of freedom."""

    nats: float
    error: float
    over: str
    freedom: float = math.inf

    def beyond_noise(self, *, of: int) -> bool:
        """Whether the difference is more than noise, as one `of` so many differences in a sentence."""
        from scipy.stats import t

        return abs(self.nats) > float(t.ppf(1 - LEVEL / 2 / of, self.freedom)) * self.error


def setup(record: Record) -> dict[str, str]:
    return {
        "data set": records.data_name(record["dataset"]),
        "preset": record["preset"],
        "settings": records.changes(record),
        "device": record["device"],
        "precision": record["precision"],
        "family": record["variational"],
    }


def of(found: Sequence[Scored]) -> list[Finding]:
    """The findings, a setup at a time, then what the flow gains and what is best; [] where nothing can be compared."""
    done = [one for one in found if one[0]["status"] == "ok" and one[0]["test"]["log_px"] is not None]
    if not done:
        return []
    varying = [name for name in setup(done[0][0]) if len({setup(record)[name] for record, _ in done}) > 1]
    levels: tuple[tuple[Callable[[Sequence[Scored]], str], tuple[str, ...]], ...] = (
        (backends, tuple(varying)),
        (gain, tuple(name for name in varying if name != "family")),
        (best, tuple(name for name in varying if name == "data set")),
    )
    result = []
    for sentence_of, names in levels:
        groups: dict[str, list[Scored]] = {}
        for one in done:
            groups.setdefault(json.dumps([*(setup(one[0])[name] for name in names), one[0]["dataset"]["sha256"]]), []).append(
                one
            )
        said = [(setup(runs[0][0]), sentence_of(runs)) for runs in groups.values()]
        result += [
            Finding(about=", ".join(what[name] for name in names if what[name]), sentence=sentence)
            for what, sentence in said
            if sentence
        ]
    return result


def backends(runs: Sequence[Scored]) -> str:
    """`speed` and `agreement` of one setup's runs, in a sentence."""
    said = "; ".join(filter(None, [speed([record for record, _ in runs]), agreement(runs)]))
    return f"{said[0].upper()}{said[1:]}." if said else ""


def machine(record: Record) -> str:
    """What must agree for two speeds to be compared."""
    environment: dict[str, Any] = record["environment"]
    hardware, threads = environment["machine"] or {}, environment["threads"] or {}
    return json.dumps([hardware.get("cpu"), hardware.get("vectors"), hardware.get("gpu"), threads.get("cores")])


def speed(runs: Sequence[Record]) -> str:
    """The fastest backend beside the slowest, each by the median over its seeds, where their middle halves don't overlap."""
    timed = [run for run in runs if run["timing"]["examples_per_s"] and run["timing"]["examples_per_s_iqr"] is not None]
    rates = {name: [run["timing"] for run in timed if run["backend"] == name] for name in BACKENDS}
    middles = {name: statistics.median(rate["examples_per_s"] for rate in own) for name, own in rates.items() if own}
    if len(middles) < 2 or len({machine(run) for run in timed}) > 1:
        return ""
    slowest, fastest = min(middles, key=middles.__getitem__), max(middles, key=middles.__getitem__)
    above = max(rate["examples_per_s"] + rate["examples_per_s_iqr"] / 2 for rate in rates[slowest])
    below = min(rate["examples_per_s"] - rate["examples_per_s_iqr"] / 2 for rate in rates[fastest])
    if above >= below:
        return f"the {WORDS[len(middles)]} train equally fast, within the spread of their chunks"
    ratio = middles[fastest] / middles[slowest]
    times = f"{ratio:.1f} times as many" if ratio >= NOTABLE else f"{ratio - 1:.0%} more"
    than = "as" if ratio >= NOTABLE else "than"
    return f"{NAMES[fastest]} trains {times} examples a second {than} {NAMES[slowest]} here"


def agreement(runs: Sequence[Scored]) -> str:
    """The largest difference of log p(x) between two backends, and whether it is noise."""
    trained = {name: own for name in BACKENDS if (own := [run for run in runs if run[0]["backend"] == name])}
    gaps = {pair: gap for pair in combinations(trained, 2) if (gap := difference(*(trained[name] for name in pair)))}
    if not gaps:
        return ""
    beyond = [pair for pair, gap in gaps.items() if gap.beyond_noise(of=len(gaps))]
    pair = max(beyond or gaps, key=lambda pair: abs(gaps[pair].nats))
    most = gaps[pair]
    if not beyond:
        return (
            f"the {WORDS[len(trained)]} agree within {abs(most.nats):.2f} nats of log p(x), which is noise "
            f"(its standard error over {most.over} is {most.error:.2f})"
        )
    lower, higher = pair if most.nats > 0 else pair[::-1]
    reason = "" if most.over == "seeds" else "; with one seed each, the seeds can be the reason"
    return (
        f"log p(x) of {NAMES[higher]} is {abs(most.nats):.2f} ± {most.error:.2f} nats above that of {NAMES[lower]}, "
        f"more than noise over {most.over}{reason}"
    )


def gain(runs: Sequence[Scored]) -> str:
    """How far the flow's log p(x) is above the mean-field posterior's, where that is so in each backend that trained both."""
    gaps = {}
    for name in BACKENDS:
        plain, flow = ([run for run in runs if (run[0]["backend"], run[0]["variational"]) == (name, each)] for each in FAMILIES)
        if plain and flow and (gap := difference(plain, flow)):
            gaps[name] = gap
    if not gaps or not all(gap.nats > 0 and gap.beyond_noise(of=len(gaps)) for gap in gaps.values()):
        return ""
    least, most = (f"{end(gap.nats for gap in gaps.values()):.2f}" for end in (min, max))
    said = least if least == most else f"{least} to {most}"
    over = next(iter(gaps.values())).over
    where = _all(list(gaps))
    return f"The flow's log p(x) is {said} nats above the mean-field posterior's in {where}, more than noise over {over}."


def best(runs: Sequence[Scored]) -> str:
    """The model of the highest log p(x) on a data set, where presets or settings differ, and how many others are as good."""
    recipes, tests = ({key(one) for one, _ in runs} for key in (_recipe, _test))
    if len(recipes) < 2 or len(tests) > 1:
        return ""
    models: dict[str, list[Scored]] = {}
    for one in runs:
        models.setdefault(json.dumps([setup(one[0]), one[0]["backend"]]), []).append(one)
    means = {key: statistics.fmean(one["test"]["log_px"] for one, _ in own) for key, own in models.items()}
    first = max(means, key=means.__getitem__)
    gaps = [difference(models[first], own) for key, own in models.items() if key != first]
    if None in gaps:
        return ""
    near = sum(not gap.beyond_noise(of=len(gaps)) for gap in gaps if gap)
    what = setup(models[first][0][0])
    said = ", ".join(
        filter(None, [what["preset"], what["settings"], f"{NAMES[models[first][0][0]['backend']]} {what['family']}"])
    )
    others = f"{near or 'none'} of the {len(gaps)} other models {'is' if near <= 1 else 'are'} within noise of it"
    return f"The highest log p(x) is {means[first]:.2f} ({said}); {others}."


def _recipe(record: Record) -> tuple[str, str]:
    return record["preset"], records.changes(record)


def _test(record: Record) -> tuple[Any, ...]:
    """What must agree for two results to be compared."""
    return record["dataset"]["sha256"], record["test"]["images"], record["test"]["importance_samples"]


def _all(names: list[str]) -> str:
    *first, last = (NAMES[name] for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def difference(first: Sequence[Scored], second: Sequence[Scored]) -> Difference | None:
    """Mean log p(x) of the second runs minus that of the first; None where a standard error is unknown."""
    if min(len(first), len(second)) == 1:
        if len(first) != len(second):
            return None
        ((one, of_one),), ((other, of_other),) = first, second
        gap = pairs.difference(one, other, scores=(of_one, of_other)).get("log_px")
        if gap is None or gap.error is None:
            return None
        return Difference(nats=gap.mean, error=gap.error, over="test images" + (" in pairs" if gap.paired else ""))
    values = [[record["test"]["log_px"] for record, _ in runs] for runs in (first, second)]
    parts = [statistics.variance(own) / len(own) for own in values]
    error = math.sqrt(sum(parts))
    if not error:
        return None
    freedom = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, values, strict=True))
    return Difference(
        nats=statistics.fmean(values[1]) - statistics.fmean(values[0]), error=error, over="seeds", freedom=freedom
    )
