"""`python -m benchmarks compare`: is this checkout slower than another revision? Judged by interleaved pairs, not by old times.

The other revision is checked out into a temporary folder. Each side runs its own `backends/` and `common/`; this checkout's
calls.py measures both. A pair is two fresh processes, one a side, which take turns: base head, head base, base head … Each turn
is one call, or several short ones, between idle devices. A pair's figure is the median over its turns of log(head/base): a
machine that is slow for longer than a turn slows both sides. Processes differ too (where their memory lies, which threads they
got), and only pairs show that: they are the sample.

The benchmark is suspected if the median over pairs of head/base is above its bound *and* every pair's is above 1. If the code
is the same, each pair is above 1 with probability ½ however loud the machine, so that the second happens by chance once in
2^pairs, 1 of 32 for five (a sign test); the first asks for an effect that matters. A suspicion is put to as many fresh pairs
again, and only if they suspect the same is the verdict "slower": by chance at most once in 4^pairs, 1 of 1,024.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import subprocess
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

from benchmarks.harness.cases import BATCHES, FAMILIES, KINDS
from benchmarks.harness.cli import parse
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.turns import What, seconds_by_turns
from benchmarks.outputs import terminal
from benchmarks.outputs.table import Table
from benchmarks.studies import throughput as suite
from common.config import Device
from common.errors import UserError
from common.protocol import BACKENDS

# The largest head/base that passes, by kind; docs/timing.md has what unchanged code showed.
BOUNDS = {"train": 1.07, "gradient": 1.07, "log_weights": 1.07, "sampling": 1.10, "placement": 1.25}
PAIRS = 5  # also the least: with fewer, chance could pass for a difference
TURNS = 10
NEEDED = ("common/config.py", "common/data.py", "common/parameters.py", "common/protocol.py")  # what calls.py imports
COLUMNS = ("kind", "family", "batch", "backend", "head / base", "least", "most", "bound", "verdict")


@dataclass(frozen=True)
class Verdict:
    """head/base by pair, those of a second look after those of the first; the bound; and whether head is slower."""

    ratios: tuple[float, ...]
    bound: float
    slower: bool

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


# --- judging ---


def suspicious(ratios: list[float], bound: float) -> bool:
    """Whether these pairs of head/base are slower by more than the bound, and by more than chance."""
    return statistics.median(ratios) > bound and min(ratios) > 1


def pair(base: Path, head: Path, what: What, *, turns: int, head_first: bool) -> float:
    """head/base of one pair of fresh processes."""
    contenders = (base, what), (head, what)
    by_turn = seconds_by_turns(*contenders, turns=turns, head_first=head_first)
    return math.exp(statistics.median(math.log(turn[contenders[1]] / turn[contenders[0]]) for turn in by_turn))


def enough(*, pairs: int, turns: int) -> None:
    """Raises `UserError` for fewer than PAIRS pairs, and for no turn."""
    for flag, value, least in (("--pairs", pairs, PAIRS), ("--turns", turns, 1)):
        if value < least:
            raise UserError(f"{flag} is {value}; it must be at least {least}.")


def judge(base: Path, head: Path, what: What, *, pairs: int = PAIRS, turns: int = TURNS) -> Verdict:
    """Raises `UserError` as `enough` does, and where a side's process ends."""
    enough(pairs=pairs, turns=turns)
    bound = BOUNDS[what.kind]
    ratios: list[float] = []
    slower = True
    while slower and len(ratios) < 2 * pairs:
        look = [pair(base, head, what, turns=turns, head_first=i % 2 == 1) for i in range(pairs)]
        slower = suspicious(look, bound)
        ratios += look
    return Verdict(tuple(ratios), bound, slower)


# --- the other revision ---


def git(*arguments: str, refusal: str = "") -> str:
    """The output of git. Raises `UserError` where git refuses, with `refusal` or else git's own message."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError as error:
        raise UserError("There is no git here to take the other revision from.") from error
    except subprocess.CalledProcessError as error:
        raise UserError(refusal or f"git {arguments[0]} refused: {' '.join(error.stderr.split())}.") from error


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A temporary folder with that revision. Raises `UserError` where there is no such revision, or it can't be measured."""
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
        Path | None,
        tyro.conf.arg(help="A saved run, .benchmarks/MACHINE/…json: its commit is the base, its benchmarks are run."),
    ] = None
    select: Annotated[
        str | None,
        tyro.conf.arg(
            aliases=["-k"],
            help="Words that a benchmark's name must have: 'train 128 jax'. By default 'train 128', or all of a saved run.",
        ),
    ] = None
    pairs: Annotated[int, tyro.conf.arg(help="Pairs of fresh processes a benchmark.")] = PAIRS
    turns: Annotated[int, tyro.conf.arg(help="Turns a pair.")] = TURNS
    device: Annotated[Device, tyro.conf.arg(help="Where the models live.")] = "cpu"


def saved(path: Path) -> tuple[str, dict[What, float]]:
    """(a saved run's commit, its benchmarks with their ms a step). Raises `UserError` where its code can't be had again."""
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
    enough(pairs=asked.pairs, turns=asked.turns)
    verdicts: dict[What, Verdict] = {}
    failed: list[str] = []
    with checkout(base) as other:
        for what in whats:
            start = time.perf_counter()
            try:
                verdicts[what] = judge(other, ROOT, what, pairs=asked.pairs, turns=asked.turns)
            except UserError as error:  # the others' verdicts aren't lost
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
        figures = (verdict.median, min(verdict.ratios), max(verdict.ratios), verdict.bound)
        names = (what.kind, what.family, str(what.batch), what.backend)
        rows.append([*names, *(f"{figure:.3f}" for figure in figures), "slower" if verdict.slower else "as fast"])
    return Table(columns=COLUMNS, rows=rows, left=("kind", "family", "backend", "verdict"), title=title)
