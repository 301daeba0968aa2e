"""`kill -9` at random moments of a run, which is resumed until it is done: the same bits as a run that nothing disturbed."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from benchmarks.harness import processes, records
from benchmarks.torture import same
from benchmarks.torture.running import Ended, Started, run
from benchmarks.torture.tried import Tell, Tried, choices
from common.config import FAMILIES
from common.protocol import BACKENDS

TITLE = "`kill -9` of a run's processes (all, parent, worker) at random moments, resumed until done: the same bits"
AT_LEAST = 250  # for 200 kills: some runs end before the kill
KILLS_A_RUN = 4
ENDED = "ended before the kill"
WHOM = ("group", "parent", "worker")
RESUMPTIONS = 3  # of a run that nobody kills any more
SETTLED = processes.GRACE + 10  # seconds in which a worker notices that its parent has died, and ends


def rounds(count: int, *, seed: int, folder: Path, tell: Tell) -> Tried:
    """A round is one kill. A run gets at most KILLS_A_RUN, fewer if it ends before; then it is resumed until it is done."""
    tried = Tried()
    models = itertools.cycle([(backend, family) for family in FAMILIES for backend in BACKENDS])
    seconds: dict[tuple[str, str], float] = {}
    while tried.rounds < count:
        model = next(models)
        whole, killed = folder / "-".join(model), folder / f"{'-'.join(model)}-{tried.rounds}"
        if model not in seconds:
            began = time.monotonic()
            if (ended := Started(*run(*model, whole)).end()).code:
                raise RuntimeError(f"the undisturbed run of {model} ended with code {ended.code}: {ended.error[-500:]}")
            seconds[model] = time.monotonic() - began
        last = min(tried.rounds + KILLS_A_RUN, count) - 1
        for number in range(tried.rounds, last + 1):
            outcome, faults = kill(run(*model, killed), folder=killed, seconds=seconds[model], seed=seed, number=number)
            if over := outcome == ENDED or number == last:
                faults += finish(run(*model, killed), ours=killed, theirs=whole)
            tried.add(f"{model[0]}: {outcome}", faults=faults)
            tell(1)
            if over:
                break
    return tried


def kill(arguments: tuple[str, ...], *, folder: Path, seconds: float, seed: int, number: int) -> tuple[str, list[str]]:
    """(who was killed, or that the run had ended before; the faults).

    Half of the moments are of the whole run, which takes so many seconds, the others shortly after a save.
    """
    random = choices(seed, number)
    whom = str(random.choice(WHOM))
    after_a_save, moment = random.random() < 0.5, random.random()
    started = Started(*arguments)
    if after_a_save:
        before = saves(folder)
        started.wait_for(lambda: saves(folder) != before, pause=0.001)
        time.sleep(moment * 0.2)
    else:
        started.wait_for(lambda: False, seconds=moment * seconds)
    had_ended = started.process.poll() is not None
    started.kill(whom)
    ended = started.end()
    faults = ended.faults()
    if whom == "worker" and not had_ended:
        faults += of_worker(ended, folder)
    if random.random() < 0.5:  # else the next run begins while a worker may still save
        faults += [f"{name} was left over" for name in started.left_over(seconds=SETTLED)]
    return ENDED if had_ended else whom, faults


def saves(folder: Path) -> set[tuple[int, int]]:
    """What tells the folder's checkpoints from those before another save."""
    return {(path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("[!.]*.h5")}


def of_worker(ended: Ended, folder: Path) -> list[str]:
    """The faults of a command whose run's process was killed, if it was there: it shows one failed row."""
    if ended.code == 0:
        return []  # the process had ended, or not begun
    found = [record for record in records.read_all(folder) if record["status"] == "failed"]
    if (ended.code, len(found)) != (1, 1) or "ended with code -9" not in found[0]["reason"]:
        return [f"the worker was killed; the command ended with code {ended.code} and {len(found)} failed records"]
    return []


def finish(arguments: tuple[str, ...], *, ours: Path, theirs: Path) -> list[str]:
    """Resume until the run is done; the faults, such as each difference from the undisturbed run."""
    for _ in range(RESUMPTIONS):
        started = Started(*arguments)
        ended = started.end()
        faults = [*ended.faults(), *(f"{name} was left over" for name in started.left_over(seconds=1))]
        if faults or ended.code == 0:
            break
    if ended.code:
        return [*faults, f"the resumed run ended with code {ended.code}: {ended.error[-300:]}"]
    return [*faults, *(f"the resumed run differs: {difference}" for difference in same.differences(ours, theirs))]
