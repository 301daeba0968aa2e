"""`python -m benchmarks compare`: is this checkout slower than another revision? Judged by interleaved pairs, not by old times.

The other revision's `backends/` and `common/` are taken from git into a temporary folder, with this checkout's `benchmarks/`,
so that the same code times both. A pair is two fresh processes, one a side, which take turns: base head, head base, base head …
Each turn is one call of a case, or several short ones, between idle devices. A pair's figure is the median over its turns of
log(head/base): what slows the machine down for longer than a turn slows both. Processes differ too (where their memory lies,
which threads they got), and only pairs show that: they are the sample.

A suspicion is that the median over pairs of head/base is above the case's bound *and* every pair's is above 1. If the code
is the same, each pair is above 1 with probability ½ however loud the machine, so that the second happens by chance once in
2^pairs, 1 of 32 for five (a sign test); the first asks for an effect that matters. A suspicion is put to as many fresh pairs
again, and only where they suspect the same is the verdict "slower": by chance at most once in 4^pairs, 1 of 1,024.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
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

# What head/base may be before it counts, by kind; see docs/timing.md for what unchanged code showed.
BOUNDS = {"train": 1.07, "gradient": 1.07, "log_weights": 1.07, "sampling": 1.10, "placement": 1.25}

PAIRS = 5
TURNS = 10
LEAST_PAIRS = 5


@dataclass(frozen=True)
class Verdict:
    """head/base by pair, those of the second look among them; the bound; and whether head is slower."""

    ratios: tuple[float, ...]
    bound: float
    slower: bool

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


def suspicious(ratios: list[float], bound: float) -> bool:
    """Whether these pairs of head/base are slower by more than the bound, and by more than chance."""
    return statistics.median(ratios) > bound and min(ratios) > 1


def pair(base: Path, head: Path, what: What, *, turns: int, head_first: bool) -> float:
    """head/base of one pair of fresh processes."""
    contenders = (base, what), (head, what)
    found = seconds_by_turns(*contenders, turns=turns, head_first=head_first)
    return math.exp(statistics.median(math.log(turn[contenders[1]] / turn[contenders[0]]) for turn in found))


def enough(*, pairs: int, turns: int) -> None:
    """Raises `UserError` for fewer than LEAST_PAIRS pairs, with which chance could pass for a difference, and for no turn."""
    for flag, value, least in (("--pairs", pairs, LEAST_PAIRS), ("--turns", turns, 1)):
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


# --- what is compared ---


def git(*arguments: str) -> str:
    """What git prints. Raises `UserError` with its message where it refuses."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UserError("There is no git here to take the other revision from.") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"git {arguments[0]} refused: {' '.join(error.stderr.split())}.") from error
    return done.stdout.strip()


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A temporary folder with that revision's `backends/` and `common/` and this checkout's `benchmarks/`.

    Raises `UserError` where there is no such revision.
    """
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") if _known(revision) else None
    if commit is None:
        raise UserError(f"git knows no revision '{revision}' here; give a commit, a branch or a tag.")
    with tempfile.TemporaryDirectory(prefix="vaebench-") as folder:
        root = Path(folder) / "checkout"
        git("worktree", "add", "--detach", str(root), commit)
        try:
            shutil.rmtree(root / "benchmarks")
            shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "records"))
            yield root
        finally:
            git("worktree", "remove", "--force", str(root))


def _known(revision: str) -> bool:
    command = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def saved(path: Path) -> tuple[str, list[What], dict[What, float]]:
    """(the commit of a saved run, what it timed, its ms a step). Raises `UserError` where its code can't be had again."""
    run = suite.read(path)
    if run["commit_info"].get("dirty") or not run["commit_info"].get("id"):
        raise UserError(f"{path} was measured with uncommitted changes, so its code can't be run again; give --base instead.")
    times = {}
    for benchmark in run["benchmarks"]:
        info = benchmark["extra_info"]
        if info["kind"] in KINDS:
            found = {f.name: info[f.name] for f in dataclasses.fields(What) if f.name in info}
            if found.get("precision") == STANDARD.dtype:  # the label of a run in full
                found["precision"] = "full"
            times[What(**found)] = info["ms_per_step"]
    return run["commit_info"]["id"], list(times), times


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Compare:
        base: Annotated[str, tyro.conf.arg(help="The git revision to compare this checkout with.")] = "HEAD"
        saved: Annotated[
            Path | None, tyro.conf.arg(help="A saved run, .benchmarks/MACHINE/…json: its commit, and what it timed.")
        ] = None
        select: Annotated[
            str | None,
            tyro.conf.arg(
                aliases=["-k"],
                help="Words that a benchmark's name must have: 'train 128 jax'. 'train 128' by default; of a saved run, all.",
            ),
        ] = None
        pairs: Annotated[int, tyro.conf.arg(help="Pairs of fresh processes a benchmark.")] = PAIRS
        turns: Annotated[int, tyro.conf.arg(help="Turns a pair.")] = TURNS
        device: Annotated[Device, tyro.conf.arg(help="Where the models live.")] = "cpu"

    asked = parse(Compare, arguments, command="compare", description="Is this checkout slower than another revision?")
    before: dict[What, float] = {}
    base = asked.base
    if asked.saved:
        base, found, before = saved(asked.saved)
        select = asked.select or ""
        if not found:
            raise UserError(f"{asked.saved} timed no benchmark that can be compared; those are {', '.join(KINDS)}.")
    else:
        select = "train 128" if asked.select is None else asked.select
        found = [
            What(kind, family, batch, backend, asked.device)
            for kind in KINDS
            for family in FAMILIES
            for batch in BATCHES
            for backend in BACKENDS
        ]
    wanted = [what for what in found if all(word in str(what).split() for word in select.split())]
    if not wanted:
        raise UserError(f"No benchmark has all the words '{select}' in its name, such as '{found[0]}'.")
    enough(pairs=asked.pairs, turns=asked.turns)
    verdicts: dict[What, Verdict] = {}
    failed: list[str] = []
    with checkout(base) as other:
        for what in wanted:
            start = time.perf_counter()
            try:
                verdicts[what] = judge(other, ROOT, what, pairs=asked.pairs, turns=asked.turns)
            except UserError as error:  # the others' verdicts aren't lost
                print(f"{what}: {error}", file=sys.stderr)
                failed.append(str(what))
                continue
            print(f"{what}: {verdicts[what].median:.3f} × base ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    columns = ("kind", "family", "batch", "backend", "head / base", "least", "most", "bound", "verdict")
    rows = []
    for what, verdict in verdicts.items():
        figures = (verdict.median, min(verdict.ratios), max(verdict.ratios), verdict.bound)
        name = (what.kind, what.family, str(what.batch), what.backend)
        rows.append([*name, *(f"{figure:.3f}" for figure in figures), "slower" if verdict.slower else "as fast"])
    title = f"this checkout against {base[:12]}, {asked.pairs} pairs of fresh processes"
    terminal.show(Table(columns=columns, rows=rows, left=("kind", "family", "backend", "verdict"), title=title), Console())
    for what, ms in before.items():
        if what in verdicts:
            print(f"{what}: the saved run had {ms:.3g} ms a step; it isn't judged by that, since machines drift.")
    slower = [str(what) for what, verdict in verdicts.items() if verdict.slower]
    if slower:
        print(f"Slower than {base[:12]}: {', '.join(slower)}.")
    if failed:
        raise UserError(f"Not compared: {', '.join(failed)}; their messages stand above. -k chooses others.")
    return 1 if slower else 0
