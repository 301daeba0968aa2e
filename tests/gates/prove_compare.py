"""`python -m benchmarks prove-compare`: does the comparison pass what is unchanged, and catch what is slower by 15 %?

Each trial is a whole comparison of HEAD with itself in a second checkout, whose `train` is as it is, or is made to wait, after
each chunk, for 15 % of what the chunk took. Trials are added to the report, so that they can be spread over a day.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.gates import compare
from benchmarks.gates.compare import PAIRS, What, checkout, judge
from benchmarks.harness import environment, reports
from benchmarks.harness.cli import parse
from common.errors import UserError
from common.protocol import BACKENDS

REPORT = "compare-gate"
SLOW_DOWN = 0.15

# Put at the end of a backend's session.py.
SLOWED = f"""

def _slowed(train):
    import time

    def slowed(self, *arguments, **keywords):
        start = time.perf_counter()
        result = train(self, *arguments, **keywords)
        end = start + {1 + SLOW_DOWN} * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return result

    return slowed


Session.train = _slowed(Session.train)
"""


def slow_down(root: Path, backend: str) -> None:
    path = root / "backends" / backend / "session.py"
    path.write_text(path.read_text(encoding="utf-8") + SLOWED, encoding="utf-8")


def trial(what: What, *, slowed: bool, pairs: int, turns: int) -> dict[str, Any]:
    start = time.perf_counter()
    with checkout("HEAD") as base, checkout("HEAD") as head:
        if slowed:
            slow_down(head, what.backend)
        verdict = judge(base, head, what, pairs=pairs, turns=turns)
    return {
        "benchmark": str(what),
        "slowed": slowed,
        "ratios": list(verdict.ratios),
        "median": verdict.median,
        "bound": verdict.bound,
        "turns": turns,
        "verdict": "slower" if verdict.slower else "as fast",
        "right": verdict.slower == slowed,
        "seconds": time.perf_counter() - start,
    }


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Prove:
        unchanged: Annotated[int, tyro.conf.arg(help="Trials of unchanged code.")] = 10
        slowed: Annotated[int, tyro.conf.arg(help=f"Trials of code made {SLOW_DOWN:.0%} slower.")] = 10
        backend: Annotated[str, tyro.conf.arg(help=f"One of {', '.join(BACKENDS)}.")] = "pytorch"
        pairs: Annotated[int, tyro.conf.arg(help="Pairs of fresh processes a trial.")] = PAIRS
        turns: Annotated[int, tyro.conf.arg(help="Turns a pair.")] = compare.TURNS
        results: Annotated[Path, tyro.conf.arg(help="Folder of the report, to which the trials are added.")] = Path("results")

    asked = parse(Prove, arguments, command="prove-compare", description="Put the speed comparison to the test, both ways.")
    compare.enough(pairs=asked.pairs, turns=asked.turns)
    for name in ("unchanged", "slowed"):
        if getattr(asked, name) < 0:
            raise UserError(f"--{name} is {getattr(asked, name)}; it must be at least 0.")
    what = What("train", "mean-field", 128, asked.backend)
    earlier = reports.read(REPORT, asked.results)
    here = environment.describe()
    for key in ("commit", "versions", "machine"):  # which the report says of all its trials
        if earlier and earlier["environment"][key] != here[key]:
            raise UserError(f"{asked.results / REPORT}.json has trials of another {key}; remove it, or give --results.")
    trials: list[dict[str, Any]] = earlier["trials"] if earlier else []
    new = []
    for slowed in [False] * asked.unchanged + [True] * asked.slowed:
        new.append(trial(what, slowed=slowed, pairs=asked.pairs, turns=asked.turns))
        reports.write(REPORT, {"slow_down": SLOW_DOWN, "trials": trials + new}, asked.results)
        found = new[-1]
        print(
            f"{'15 % slower' if slowed else 'unchanged'}: {found['median']:.3f} × base "
            f"({min(found['ratios']):.3f} to {max(found['ratios']):.3f}), {found['verdict']}, {found['seconds']:.0f} s",
            flush=True,
        )
    print(f"{sum(found['right'] for found in new)} of {len(new)} verdicts are right.")
    return 0 if all(found["right"] for found in new) else 1


def markdown(report: dict[str, Any]) -> str:
    """The report's block in docs/timing.md."""
    lines = [
        "| benchmark | code | trials | right | head / base, median over trials | least | most | bound |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for benchmark in dict.fromkeys(trial["benchmark"] for trial in report["trials"]):
        for slowed, code in ((False, "unchanged"), (True, f"{report['slow_down']:.0%} slower")):
            trials = [t for t in report["trials"] if t["benchmark"] == benchmark and t["slowed"] == slowed]
            if trials:
                medians = [t["median"] for t in trials]
                figures = (statistics.median(medians), min(medians), max(medians), trials[0]["bound"])
                right = sum(t["right"] for t in trials)
                lines.append(f"| {benchmark} | {code} | {len(trials)} | {right} | {' | '.join(f'{x:.3f}' for x in figures)} |")
    lines += ["", f"- {reports.measured(report['environment'], setting='cpu, float32')}."]
    return "\n".join(lines) + "\n"
