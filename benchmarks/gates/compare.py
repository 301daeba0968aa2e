"""`python -m benchmarks compare`: is this checkout, the head, slower than another revision, the base?

The base is checked out into a temporary folder. Each side runs its own `backends/` and `common/`; this checkout's calls.py
times both. A pair is two fresh processes, one a side, which take turns: base head, head base, base head … A turn is a call, or
several short ones, between idle devices. A pair's figure is the median over its turns of log(head/base): a machine that is slow
for longer than a turn slows both sides. Processes differ too, in the place of their memory and in their threads. Only pairs
show that difference, so the pairs are the sample.

A benchmark is suspected if the median over pairs of head/base is above its bound *and* every pair's head/base is above 1. The
bound asks for an effect that matters. The second condition is a sign test: if the code is the same, a pair is above 1 with
probability ½ however loud the machine, and all are once in 2^pairs, 1 of 32 for five. As many fresh pairs test a suspicion.
Only if they suspect the same is the verdict "slower": by chance at most once in 4^pairs, 1 of 1,024.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.harness.cases import BATCHES, KINDS
from benchmarks.harness.cli import OnDevice, at_least, installed, parse
from benchmarks.harness.environment import ROOT, git
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.turns import What, seconds_by_turns
from benchmarks.outputs import terminal
from benchmarks.outputs.table import Table
from benchmarks.studies import throughput as suite
from common.config import FAMILIES
from common.errors import UserError
from common.protocol import BACKENDS

# Kind → the largest head/base that passes; docs/timing.md has the ratios of unchanged code.
BOUNDS = {"train": 1.07, "gradient": 1.07, "log_weights": 1.07, "sampling": 1.10, "placement": 1.25}
PAIRS = 5  # also the least number: with fewer, chance could pass for a difference
TURNS = 10
NEEDED = ("common/config.py", "common/data.py", "common/parameters.py", "common/protocol.py")  # imported by calls.py
COLUMNS = ("kind", "family", "batch", "backend", "head / base", "least", "most", "bound", "verdict")


@dataclass(frozen=True)
class Verdict:
    """head/base of every pair, the second look's after the first's; whether the head is slower."""

    ratios: list[float]
    slower: bool

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


# --- judging ---


def suspicious(ratios: list[float], bound: float) -> bool:
    """Whether the pairs' head/base say that the head is slower, by more than the bound and more than chance."""
    return statistics.median(ratios) > bound and min(ratios) > 1


def pair(base: Path, head: Path, what: What, *, turns: int, head_first: bool) -> float:
    """head/base of one pair of fresh processes."""
    sides = [(base, what), (head, what)]
    by_turn = seconds_by_turns(sides[::-1] if head_first else sides, turns=turns)
    ratios = [turn[head, what][what.kind] / turn[base, what][what.kind] for turn in by_turn]
    return math.exp(statistics.median(map(math.log, ratios)))


def judge(base: Path, head: Path, what: What, *, pairs: int = PAIRS, turns: int = TURNS) -> Verdict:
    """The verdict on one benchmark. Raises `UserError` where a side's process ends."""
    ratios: list[float] = []
    slower = True
    while slower and len(ratios) < 2 * pairs:
        look = [pair(base, head, what, turns=turns, head_first=i % 2 == 1) for i in range(pairs)]
        slower = suspicious(look, BOUNDS[what.kind])
        ratios += look
    return Verdict(ratios, slower)


# --- the other revision ---


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A temporary folder with the revision. Raises `UserError` where it doesn't exist or is too old to be measured."""
    refusal = f"git knows no revision '{revision}' here; give a commit, a branch or a tag."
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", refusal=refusal)
    with tempfile.TemporaryDirectory(prefix="vaebench-") as folder:
        root = Path(folder) / "checkout"
        git("worktree", "add", "--detach", str(root), commit)
        try:
            if lacking := [name for name in NEEDED if not (root / name).exists()]:
                raise UserError(f"The revision {revision} is too old to be measured: it has no {lacking[0]}.")
            yield root
        finally:
            git("worktree", "remove", "--force", str(root))


# --- the command ---


@dataclass
class Compare:
    base: Annotated[str, tyro.conf.arg(help="The git revision to compare this checkout with.")] = "HEAD"
    saved: Annotated[
        Path | None, tyro.conf.arg(help="A saved run, .benchmarks/MACHINE/…json: its commit is the base of its benchmarks.")
    ] = None
    select: Annotated[
        str | None,
        tyro.conf.arg(aliases=["-k"], help="Words of a benchmark's name; by default 'train 128', or all of a saved run."),
    ] = None
    pairs: Annotated[int, tyro.conf.arg(help="Pairs of fresh processes a benchmark.")] = PAIRS
    turns: Annotated[int, tyro.conf.arg(help="Turns a pair.")] = TURNS
    device: OnDevice = "cpu"


def saved(path: Path) -> tuple[str, dict[What, float]]:
    """(commit, {benchmark: ms a step}) of a saved run.

    Raises `UserError` where the run's code can't be checked out again, or none of its benchmarks can be compared.
    """
    run = suite.read(path)
    commit = run["commit_info"]
    if commit.get("dirty") or not commit.get("id"):
        raise UserError(f"{path} was measured with uncommitted changes, so its code can't be run again; give --base instead.")
    times = {}
    for benchmark in run["benchmarks"]:
        info = benchmark["extra_info"]
        if info["kind"] in KINDS:
            fields = {field.name: info[field.name] for field in dataclasses.fields(What) if field.name in info}
            if fields.get("precision") == STANDARD.dtype:  # the label of a run in full
                fields["precision"] = "full"
            times[What(**fields)] = info["ms_per_step"]
    if not times:
        raise UserError(f"{path} timed no benchmark that can be compared; those are {', '.join(KINDS)}.")
    return commit["id"], times


def selected(whats: list[What], words: str) -> list[What]:
    """The benchmarks whose names have all the words. Raises `UserError` where none has."""
    chosen = [what for what in whats if set(words.split()) <= set(str(what).split())]
    if not chosen:
        raise UserError(f"No benchmark has all the words '{words}' in its name, such as '{whats[0]}'.")
    return chosen


def main(arguments: list[str]) -> int:
    asked = parse(Compare, arguments, command="compare", description="Is this checkout slower than another revision?")
    base, before = saved(asked.saved) if asked.saved else (asked.base, {})
    plan = [What(*names, asked.device) for names in itertools.product(KINDS, FAMILIES, BATCHES, BACKENDS)]
    whats = selected(list(before) or plan, ("" if before else "train 128") if asked.select is None else asked.select)
    at_least(asked, pairs=PAIRS, turns=1)
    there = installed(dict.fromkeys(what.backend for what in whats))
    whats = [what for what in whats if what.backend in there]
    verdicts: dict[What, Verdict] = {}
    failed: list[str] = []
    with checkout(base) as other:
        for what in whats:
            start = time.perf_counter()
            try:
                verdicts[what] = judge(other, ROOT, what, pairs=asked.pairs, turns=asked.turns)
            except UserError as error:  # the other benchmarks' verdicts are kept
                print(f"{what}: {error}", file=sys.stderr)
                failed.append(str(what))
                continue
            print(f"{what}: {verdicts[what].median:.3f} × base ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    terminal.show(table(verdicts, title=f"this checkout against {base[:12]}, {asked.pairs} pairs of processes"), Console())
    for what in verdicts.keys() & before.keys():
        print(f"{what}: the saved run had {before[what]:.3g} ms a step; it isn't judged by that, since machines drift.")
    slower = [str(what) for what, verdict in verdicts.items() if verdict.slower]
    if slower:
        print(f"Slower than {base[:12]}: {', '.join(slower)}.")
    if failed:
        raise UserError(f"Not compared: {', '.join(failed)}; their messages stand above. -k chooses others.")
    return 1 if slower else 0


def table(verdicts: dict[What, Verdict], *, title: str) -> Table:
    rows = []
    for what, verdict in verdicts.items():
        figures = (verdict.median, min(verdict.ratios), max(verdict.ratios), BOUNDS[what.kind])
        names = (what.kind, what.family, str(what.batch), what.backend)
        rows.append([*names, *(f"{figure:.3f}" for figure in figures), "slower" if verdict.slower else "as fast"])
    return Table(columns=COLUMNS, rows=rows, left=("kind", "family", "backend", "verdict"), title=title)
