"""Sentences computed from records: which backend trains faster, whether the backends agree, what the flow gains.

Runs are compared within a setup: the same preset, changed settings, data, family, device, precision, K and test images. A
difference is noise where it is within the two-sided 95 % interval around 0, shared among the pairs compared (Bonferroni).
Nothing is said where runs can't be compared: other machines, other numbers of test images, no result.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.harness import records
from benchmarks.harness.records import Record
from common.config import FAMILIES, Variational
from common.protocol import BACKENDS

NAMES = dict(zip(BACKENDS, ("PyTorch", "JAX", "TensorFlow"), strict=True))
LEVEL = 0.05  # chance of calling noise a difference, for each sentence
WORDS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence, and the runs that it is about in a few words ("" for all)."""

    about: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of log p(x), in nats: first minus second, its standard error, and whether that is over seeds or test images.

    `dof`: degrees of freedom of the standard error; infinite over test images.
    """

    nats: float
    se: float
    over: str
    dof: float = math.inf

    def beyond_noise(self, *, pairs: int) -> bool:
        """Whether the difference isn't noise, where `pairs` differences are looked at in one sentence."""
        from scipy.stats import t

        return abs(self.nats) > float(t.ppf(1 - LEVEL / 2 / pairs, self.dof)) * self.se


Setup = tuple[str, ...]


def setup(record: Record) -> dict[str, str]:
    """What two runs must share to be compared, by its name in a sentence."""
    return {
        "data set": record["dataset"]["name"],
        "preset": record["preset"],
        "settings": records.changes(record),
        "family": record["variational"],
        "device": record["device"],
        "precision": record["precision"],
    }


def of(found: Sequence[Record]) -> list[Finding]:
    """The findings, most general first; [] where nothing can be compared."""
    done = [record for record in found if record["status"] == "ok"]
    setups: dict[Setup, list[Record]] = {}
    for record in done:
        key = (*setup(record).values(), record["dataset"]["sha256"] or "", str(record["test"]["images"]))
        setups.setdefault(key, []).append(record)
    varying = [name for name in setup(done[0]) if len({setup(record)[name] for record in done}) > 1] if done else []
    result = []
    for runs in setups.values():
        about = ", ".join(setup(runs[0])[name] for name in varying if setup(runs[0])[name])
        said = [sentence for sentence in (speed(runs), agreement(runs)) if sentence]
        if said:
            sentence = "; ".join(said)
            result.append(Finding(about=about, sentence=f"{sentence[0].upper()}{sentence[1:]}."))
    apart = [name for name in varying if name != "family"]
    for key in dict.fromkeys(key[1:] for key in setups):
        families = {family: setups[family, *key] for family in FAMILIES if (family, *key) in setups}
        if sentence := gain(families):
            named = setup(next(iter(families.values()))[0])
            result.append(Finding(about=", ".join(named[name] for name in apart if named[name]), sentence=sentence))
    return result


def by_backend(runs: Sequence[Record]) -> dict[str, list[Record]]:
    return {name: own for name in BACKENDS if (own := [run for run in runs if run["backend"] == name])}


def machine(record: Record) -> str:
    """What must be the same for two speeds to be compared."""
    environment: dict[str, Any] = record["environment"]
    processor = {key: value for key, value in (environment["machine"] or {}).items() if key != "memory_bytes"}
    threads = environment["threads"] or {}
    return json.dumps([processor, threads.get("cores")], sort_keys=True)


def speed(runs: Sequence[Record]) -> str | None:
    """The fastest backend beside the slowest, by median examples/s; a backend with several seeds has the median of theirs."""
    timed = [run for run in runs if run["timing"]["examples_per_s"] and run["timing"]["examples_per_s_iqr"] is not None]
    backends = by_backend(timed)
    if len(backends) < 2 or len({machine(run) for run in timed}) > 1:
        return None

    def middle(name: str) -> float:
        return statistics.median(run["timing"]["examples_per_s"] for run in backends[name])

    def reach(name: str, end: Callable[[list[float]], float], sign: int) -> float:
        rates = [run["timing"] for run in backends[name]]
        return end([rate["examples_per_s"] + sign * rate["examples_per_s_iqr"] / 2 for rate in rates])

    slowest, *_, fastest = sorted(backends, key=middle)
    if reach(slowest, max, 1) >= reach(fastest, min, -1):
        return f"the {_number(len(backends))} train equally fast, within the spread of their chunks"
    ratio = middle(fastest) / middle(slowest)
    times = f"{ratio:.1f} times" if ratio >= 1.15 else f"{ratio - 1:.0%} more than"
    if ratio < 1.15:
        return f"{NAMES[fastest]} trains {ratio - 1:.0%} more examples a second than {NAMES[slowest]}"
    return f"{NAMES[fastest]} trains {times} as many examples a second as {NAMES[slowest]}"


def agreement(runs: Sequence[Record]) -> str | None:
    """The largest difference of log p(x) between two backends, and whether it is noise."""
    backends = by_backend([run for run in runs if run["test"]["log_px_se"] is not None])
    pairs = {pair: difference(*(backends[name] for name in pair)) for pair in combinations(backends, 2)}
    if not pairs:
        return None
    pair = max(pairs, key=lambda pair: abs(pairs[pair].nats))
    most = pairs[pair]
    beyond = {one for one, gap in pairs.items() if gap.beyond_noise(pairs=len(pairs))}
    if not beyond:
        return (
            f"the {_number(len(backends))} agree within {abs(most.nats):.2f} nats of log p(x), which is noise "
            f"(standard error over {most.over} {most.se:.2f})"
        )
    pair = max(beyond, key=lambda pair: abs(pairs[pair].nats))
    most = pairs[pair]
    higher, lower = pair if most.nats > 0 else pair[::-1]
    seeds = "; with one seed each, the seed can be the reason" if most.over != "seeds" else ""
    return (
        f"log p(x) of {NAMES[higher]} is {abs(most.nats):.2f} ± {most.se:.2f} nats above that of {NAMES[lower]}, "
        f"more than noise over {most.over}{seeds}"
    )


def gain(families: Mapping[Variational, list[Record]]) -> str | None:
    """How far the flow's log p(x) is above the mean-field posterior's, over all backends that trained both."""
    backends = {
        family: by_backend([run for run in runs if run["test"]["log_px_se"] is not None]) for family, runs in families.items()
    }
    if len(backends) < 2:
        return None
    plain, flow = (backends[family] for family in FAMILIES)
    gaps = [difference(flow[name], plain[name]) for name in flow if name in plain]
    if not gaps:
        return None
    least, most = (f"{end(gap.nats for gap in gaps):.2f}" for end in (min, max))
    said = least if least == most else f"{least} to {most}"
    where = f"in all {_number(len(gaps))} backends" if len(gaps) > 1 else f"in {NAMES[next(iter(flow))]}"
    if all(gap.beyond_noise(pairs=len(gaps)) and gap.nats > 0 for gap in gaps):
        over = gaps[0].over
        return f"The flow's log p(x) is {said} nats above the mean-field posterior's, {where}: more than noise over {over}."
    return None


def difference(first: Sequence[Record], second: Sequence[Record]) -> Difference:
    """Mean log p(x) of the first runs minus that of the second.

    Over seeds where both have several (Welch's standard error); else over test images, as if the two had tested other images,
    which makes the standard error too large rather than too small.
    """
    ours, theirs = ([run["test"]["log_px"] for run in runs] for runs in (first, second))
    nats = statistics.fmean(ours) - statistics.fmean(theirs)
    if min(len(ours), len(theirs)) > 1:
        parts = [(statistics.variance(values) / len(values), len(values) - 1) for values in (ours, theirs)]
        variance = sum(part for part, _ in parts)
        dof = variance**2 / sum(part**2 / free for part, free in parts) if variance else math.inf
        return Difference(nats=nats, se=math.sqrt(variance), over="seeds", dof=dof)
    errors = [statistics.fmean(run["test"]["log_px_se"] for run in runs) for runs in (first, second)]
    return Difference(nats=nats, se=math.hypot(*errors), over="test images")


def _number(count: int) -> str:
    return WORDS.get(count, str(count))
