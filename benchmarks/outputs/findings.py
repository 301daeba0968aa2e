"""Sentences computed from records: which backend trains faster, whether the backends agree, what the flow gains, what is best.

Runs are compared within a setup: one folder, data set, preset, set of changed settings, family, device and precision. A
difference of log p(x) is noise where it lies within its own 95 % interval around 0, in which all pairs of a sentence share the
5 % (Bonferroni). With several seeds of either side the interval is over seeds (Welch's t). Else it is over test images, in
pairs of the same image where both runs kept them. Nothing is said of runs that can't be compared, on two machines, say.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from benchmarks.harness import environment, pairs, record_names
from benchmarks.harness.pairs import Scores
from benchmarks.harness.record_schema import Record
from benchmarks.harness.threads import COUNTS
from common.config import FAMILIES
from common.protocol import BACKENDS

NAMES = dict(zip(BACKENDS, ("PyTorch", "JAX", "TensorFlow"), strict=True))
LEVEL = 0.05  # the chance that a sentence calls noise a difference
MANY = 6  # setups from which a sentence counts them, rather than one sentence a setup
NOTABLE = 1.15  # a ratio of speeds from which it is said as "1.2 times", below as "5% more"
WORDS = {2: "two", 3: "three"}


class Scored(NamedTuple):
    """A record, its results by image where they are kept, its data set's name, and its folder where several are shown."""

    record: Record
    scores: Scores | None
    data: str
    folder: str = ""


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


def setup(run: Scored) -> dict[str, str]:
    record = run.record
    return {
        "folder": run.folder,
        "data set": run.data,
        "preset": record["preset"],
        "settings": record_names.changes(record) or "preset's settings",
        "device": record["device"],
        "precision": record["precision"],
        "family": record["variational"],
    }


def of(found: Sequence[Scored]) -> list[Finding]:
    """The findings: the backends in each setup, or in how many of MANY; what the flow gains; what is best."""
    done = [one for one in found if one.record["status"] == "ok" and one.record["test"]["log_px"] is not None]
    if not done:
        return []
    varying = [name for name in setup(done[0]) if len({setup(one)[name] for one in done}) > 1]
    setups = grouped(done, varying)
    result = [Finding(about="", sentence=overview(list(setups.values())))]
    levels: tuple[tuple[Callable[[Sequence[Scored]], str], list[str]], ...] = (
        (best, [name for name in varying if name == "data set"]),
        (gain, [name for name in varying if name != "family"]),
        (backends, varying),
    )
    for sentence_of, names in levels:
        said = {about: sentence_of(runs) for about, runs in grouped(done, names).items()}
        result += [Finding(about=about, sentence=sentence) for about, sentence in said.items() if sentence]
    result.append(Finding(about="", sentence=disturbed([one.record for one in done])))
    return [finding for finding in result if finding.sentence]


def grouped(runs: Sequence[Scored], names: Sequence[str]) -> dict[str, list[Scored]]:
    """The runs that agree in the data and in these parts of `setup`, by these parts in words."""
    groups: dict[tuple[str, ...], list[Scored]] = {}
    for one in runs:
        what = setup(one)
        groups.setdefault((*(what[name] for name in names), one.record["dataset"]["sha256"] or ""), []).append(one)
    return {", ".join(filter(None, key[:-1])): own for key, own in groups.items()}


def disturbed(runs: Sequence[Record]) -> str:
    """How many runs have a speed that isn't compared."""
    count = sum(not quiet(run) for run in runs if run["timing"]["examples_per_s"])
    noun = f"{count} of {len(runs)} runs" if len(runs) > 1 else "the run"
    return f"Other programs used the machine's cores beside {noun}: such speeds aren't compared." if count else ""


def backends(runs: Sequence[Scored]) -> str:
    """`speed` and `agreement` of one setup's runs, in a sentence."""
    return _sentence([str(part) for part in (speed([run.record for run in runs]), agreement(runs)) if part])


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def overview(setups: Sequence[Sequence[Scored]]) -> str:
    """In how many setups which backend is the fastest, and in how many the backends agree."""
    speeds = [one for runs in setups if (one := speed([run.record for run in runs]))]
    agreements = [each for runs in setups if (each := agreement(runs))]
    if max(len(speeds), len(agreements)) < MANY:
        return ""
    said = []
    if clear := [found for found in speeds if found.clear]:
        counts = {name: n for name in BACKENDS if (n := sum(found.fastest == name for found in clear))}
        first, *others = sorted(counts, key=counts.__getitem__, reverse=True)
        where = "".join(f", {NAMES[name]} in {counts[name]}" for name in others)
        least, most = (f"{end(found.ratio for found in clear):.1f}" for end in (min, max))
        times = f"{least} to {most} times the speed of the slowest"
        said.append(f"of {len(speeds)} setups {NAMES[first]} trains fastest in {counts[first]}{where}, at {times}")
    if agreements:
        agreeing = sum(not found.beyond_noise for found in agreements)
        said.append(
            f"log p(x) differs by no more than noise in {agreeing} of {len(agreements)} "
            f"(where nothing differs, 1 in {1 / LEVEL:.0f} would by chance)"
        )
    return _sentence(said)


def machine(record: Record) -> str:
    """What must agree for two speeds to be compared."""
    hardware, threads = record["environment"]["machine"] or {}, record["environment"]["threads"] or {}
    counts = {name: value for name, value in (threads.get("variables") or {}).items() if name in COUNTS}
    return json.dumps([hardware.get("cpu"), hardware.get("vectors"), hardware.get("gpu"), threads.get("cores"), counts])


def quiet(record: Record) -> bool:
    """Whether no other programs used the machine's cores when the run began."""
    return not environment.crowded(record["environment"].get("runnable"), record["environment"]["machine"])


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The fastest backend beside the slowest; `clear`: the middle halves of their chunks don't overlap."""

    fastest: str
    slowest: str
    ratio: float
    clear: bool
    backends: int

    def __str__(self) -> str:
        if not self.clear:
            return f"the {WORDS[self.backends]} train equally fast, within the spread of their chunks"
        if self.ratio < NOTABLE:
            return f"{NAMES[self.fastest]} trains {self.ratio - 1:.0%} more examples a second than {NAMES[self.slowest]} here"
        return f"{NAMES[self.fastest]} trains {self.ratio:.1f} times as many examples a second as {NAMES[self.slowest]} here"


def speed(runs: Sequence[Record]) -> Speed | None:
    """Each backend by the median over its seeds; None where fewer than two have a `quiet` run, or on several machines."""
    rated = [run for run in runs if run["timing"]["examples_per_s"] and run["timing"]["examples_per_s_iqr"] is not None]
    timed = [run for run in rated if quiet(run)]
    rates = {name: [run["timing"] for run in timed if run["backend"] == name] for name in BACKENDS}
    middles = {name: statistics.median(rate["examples_per_s"] for rate in own) for name, own in rates.items() if own}
    if len(middles) < 2 or len({machine(run) for run in timed}) > 1:
        return None
    slowest, fastest = min(middles, key=middles.__getitem__), max(middles, key=middles.__getitem__)
    above = max(rate["examples_per_s"] + rate["examples_per_s_iqr"] / 2 for rate in rates[slowest])
    below = min(rate["examples_per_s"] - rate["examples_per_s_iqr"] / 2 for rate in rates[fastest])
    ratio = middles[fastest] / middles[slowest]
    return Speed(fastest=fastest, slowest=slowest, ratio=ratio, clear=above < below, backends=len(middles))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The largest difference of log p(x) between two backends, `higher` minus `lower`; of those beyond noise where one is.

    `backends`: all that were compared, in words.
    """

    higher: str
    lower: str
    gap: Difference
    beyond_noise: bool
    backends: str

    def __str__(self) -> str:
        gap = self.gap
        if not self.beyond_noise:
            return (
                f"{self.backends} agree within {gap.nats:.2f} nats of log p(x), which is noise "
                f"(its standard error over {gap.over} is {gap.error:.2f})"
            )
        reason = "" if gap.over == "seeds" else "; with one seed each, the seeds can be the reason"
        return (
            f"log p(x) of {NAMES[self.higher]} is {gap.nats:.2f} ± {gap.error:.2f} nats above that of {NAMES[self.lower]}, "
            f"more than noise over {gap.over}{reason}"
        )


def agreement(runs: Sequence[Scored]) -> Agreement | None:
    trained = {name: own for name in BACKENDS if (own := [run for run in runs if run.record["backend"] == name])}
    found = {pair: gap for pair in combinations(trained, 2) if (gap := difference(*(trained[name] for name in pair)))}
    if not found:
        return None
    beyond = [pair for pair, gap in found.items() if gap.beyond_noise(of=len(found))]
    pair = max(beyond or found, key=lambda pair: abs(found[pair].nats))
    lower, higher = pair if found[pair].nats > 0 else pair[::-1]
    gap = dataclasses.replace(found[pair], nats=abs(found[pair].nats))
    compared = [name for name in trained if any(name in each for each in found)]
    named = f"the {WORDS[len(trained)]}" if len(compared) == len(trained) else _all(compared)
    return Agreement(higher=higher, lower=lower, gap=gap, beyond_noise=bool(beyond), backends=named)


def gain(runs: Sequence[Scored]) -> str:
    """How far the flow's log p(x) is above the mean-field posterior's, where that is so in each backend that trained both."""
    gaps = {}
    for name in BACKENDS:
        plain, flow = (
            [run for run in runs if (run.record["backend"], run.record["variational"]) == (name, each)] for each in FAMILIES
        )
        if plain and flow and (gap := difference(plain, flow)):
            gaps[name] = gap
    if not gaps or not all(gap.nats > 0 and gap.beyond_noise(of=len(gaps)) for gap in gaps.values()):
        return ""
    least, most = (f"{end(gap.nats for gap in gaps.values()):.2f}" for end in (min, max))
    said = least if least == most else f"{least} to {most}"
    over = " or ".join(dict.fromkeys(gap.over for gap in gaps.values()))
    where = _all(list(gaps))
    return f"The flow's log p(x) is {said} nats above the mean-field posterior's in {where}, more than noise over {over}."


def best(runs: Sequence[Scored]) -> str:
    """The model of the highest log p(x) on a data set, where presets or settings differ, and how many others are as good."""
    recipes, tests = ({key(one.record) for one in runs} for key in (_recipe, _test))
    if len(recipes) < 2 or len(tests) > 1:
        return ""
    models: dict[str, list[Scored]] = {}
    for one in runs:
        models.setdefault(json.dumps([setup(one), one.record["backend"]]), []).append(one)
    means = {key: statistics.fmean(one.record["test"]["log_px"] for one in own) for key, own in models.items()}
    first = max(means, key=means.__getitem__)
    gaps = [gap for key, own in models.items() if key != first and (gap := difference(models[first], own))]
    if not gaps:
        return ""
    near = sum(not gap.beyond_noise(of=len(gaps)) for gap in gaps)
    what, backend = setup(models[first][0]), models[first][0].record["backend"]
    said = f"{what['preset']}, {what['settings']}, {NAMES[backend]} {what['family']}"
    if len(gaps) == 1:
        others = f"{'the' if len(models) == 2 else 'one'} other model is {'' if near else 'not '}within noise of it"
    else:
        others = f"{near or 'none'} of the {len(gaps)} other models {'is' if near <= 1 else 'are'} within noise of it"
    if left_out := len(models) - 1 - len(gaps):
        others += f"; {left_out} more can't be compared with it"
    return f"The highest log p(x) is {means[first]:.2f} ({said}); {others}."


def _recipe(record: Record) -> tuple[str, str]:
    return record["preset"], record_names.changes(record)


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
        (one,), (other,) = first, second
        gap = pairs.difference(one.record, other.record, scores=(one.scores, other.scores)).get("log_px")
        if gap is None or gap.error is None:
            return None
        return Difference(nats=gap.mean, error=gap.error, over="pairs of test images" if gap.paired else "test images")
    values = [[run.record["test"]["log_px"] for run in runs] for runs in (first, second)]
    parts = [statistics.variance(own) / len(own) for own in values]
    error = math.sqrt(sum(parts))
    if not error:
        return None
    freedom = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, values, strict=True))
    return Difference(
        nats=statistics.fmean(values[1]) - statistics.fmean(values[0]), error=error, over="seeds", freedom=freedom
    )
