"""Quality: `quick` on the digits, some seeds of each backend and family, against the same seeds' scores in the baseline.

A seed has one set of initial weights and one order of minibatches in every backend and version. An innocent change of versions
may move two things: float32's rounding, which training amplifies until the weights have nothing in common (docs/agreement.md),
and the draws of the device's noise. The baseline's backends are the same function, as parity proves, and differ in these two
alone: their spread within a seed is the spread of an innocent change. Only equal seeds are compared, so that a seed's luck with
its weights and minibatches doesn't count:

    s² = Σ_seeds Σ_backends (score − its seed's mean)² / (seeds · (backends − 1))
    the mean of n seeds may move by t · s · √(2/n), the score of one seed by t · s · √2,

t being Student's, for a chance of FALSE_ALARM that any row is wrong about unchanged code. A rise is judged as a fall is: the
estimator may be wrong.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import statistics
from typing import Any

from benchmarks.gates.rows import Row, pooled, quantile
from benchmarks.harness import processes, runs, scoring
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import QUICK
from benchmarks.harness.progress import Progress
from common import data, protocol, training
from common.config import FAMILIES, Config

PRESET, DATA, SEEDS = "quick", "binarized-digits", (0, 1, 2)

# The preset's scores to the bit, sooner: chunks of one length are compiled once, and only the last state is validated.
SETTINGS = QUICK.replace(chunk=250, validation_interval=QUICK.training.steps)

Scores = dict[str, dict[str, list[float]]]  # family → backend → test log p(x) by seed, nats


def settings() -> dict[str, Any]:
    """The settings that a score depends on beside backend, family and seed, as JSON has them."""
    dataset = data.load(DATA, data_dir=None, binarize=None)
    config = SETTINGS.replace(image_shape=dataset.image_shape)
    return json.loads(json.dumps({"config": config.as_dict(), "data": dataset.sha256, "seeds": SEEDS}))


# --- measuring ---


def worker(name: str) -> dict[str, list[float]]:
    """Family → test log p(x) by seed, of one backend, trained and tested in this process."""
    dataset = data.load(DATA, data_dir=None, binarize=None)
    config = SETTINGS.replace(image_shape=dataset.image_shape)
    configs = {family: [config.replace(variational=family, seed=seed) for seed in SEEDS] for family in FAMILIES}
    return {family: [score(name, each, dataset) for each in of_family] for family, of_family in configs.items()}


def score(name: str, config: Config, dataset: data.Dataset) -> float:
    """Test log p(x) of a run that leaves no record, nats."""
    backend = protocol.load(name)
    job = Job(name, PRESET, DATA, None, config, results="", resume=False)
    checkpoint, session = runs.begin(job, backend=backend, dataset=dataset)

    training.train(session, checkpoint, dataset=dataset)
    progress = Progress(f"{name} {config.model.variational} seed {config.training.seed}")
    return scoring.evaluate(backend, checkpoint.selected(), config=config, dataset=dataset, progress=progress).log_px


def measure(backends: list[str]) -> Scores:
    """Each backend in a process of its own, all at the same time, since nothing is timed. Raises `UserError` if one fails."""

    def one(backend: str) -> dict[str, list[float]]:
        threads = {"OMP_NUM_THREADS": "1"}  # with products this small, threads cost more by waiting than they save
        return dict(processes.ask("benchmarks.gates.quality:worker", backend, title=backend, variables=threads))

    with concurrent.futures.ThreadPoolExecutor(len(backends)) as pool:
        scores = dict(zip(backends, pool.map(one, backends), strict=True))
    return {family: {backend: scores[backend][family] for backend in backends} for family in FAMILIES}


# --- judging ---


def finite(scores: Scores) -> bool:
    return all(math.isfinite(x) for backends in scores.values() for values in backends.values() for x in values)


def bounds(base: Scores, family: str) -> tuple[float, float]:
    """How far the mean over seeds, and one seed, may move, nats."""
    by_seed = [list(seed) for seed in zip(*base[family].values(), strict=True)]
    s, degrees = pooled(by_seed)
    t = quantile(tests=2 * sum(map(len, base.values())), degrees=degrees, sides=2)
    return t * s * math.sqrt(2 / len(by_seed)), t * s * math.sqrt(2)


def judge(base: Scores, now: Scores) -> list[Row]:
    """Two rows a family and backend that both have: the mean over seeds, and the seed that moved farthest."""
    rows = []
    for family, backends in base.items():
        of_mean, of_one = bounds(base, family)
        for backend, before in backends.items():
            if backend not in now[family]:
                continue
            after = now[family][backend]
            moves = [abs(b - a) for a, b in zip(before, after, strict=True)]
            far = moves.index(max(moves))
            means = statistics.fmean(before), statistics.fmean(after)
            rows.append(row(f"log p(x), mean of {len(moves)} seeds", backend, family, *means, of_mean))
            rows.append(row(f"log p(x), farthest seed ({SEEDS[far]})", backend, family, before[far], after[far], of_one))
    return rows


def row(what: str, backend: str, family: str, before: float, after: float, bound: float) -> Row:
    move = after - before
    if abs(move) <= bound:
        verdict, reason = ("within" if move else "identical"), None
    else:
        verdict = "lower" if move < 0 else "higher" if move > 0 else "not finite"
        reason = (
            f"{backend} {family}: {what} is {after:.3f} nats, {verdict} than the baseline's {before:.3f} "
            f"by more than {bound:.3f}."
        )
    return Row(what, backend, family, f"{before:.3f}", f"{after:.3f}", f"± {bound:.3f}", verdict, reason)
