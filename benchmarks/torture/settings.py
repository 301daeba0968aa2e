"""Settings drawn over the whole config, extremes included: each run ends in finite numbers or in a sentence."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

import numpy as np

from benchmarks.harness import presets, runs, scoring, threads
from benchmarks.harness.jobs import Job
from benchmarks.harness.progress import Progress
from benchmarks.torture import bounded
from benchmarks.torture.tried import Tell, Tried
from common import checkpoints, data, estimators, protocol, training
from common.config import SECTIONS, Config, check
from common.errors import UserError
from common.protocol import BACKENDS

TITLE = (
    "settings drawn by hypothesis over the whole config, extremes included (latent 1, hidden 1, depth 0, batch 1, K 1, "
    "learning rate 0 and 1e6, all black, all white, one image)"
)
AT_LEAST = 500
BLOCK = 20  # rounds of one backend, in one process
PATIENCE = 300.0  # seconds for one run, with its compilation

LONG = ("steps", "samples", "objective_samples")  # of 10¹² a run would take its time, as asked

# A run of a second. Settings that a draw leaves out have these values, or the preset's.
SMALL = {"steps": 4, "warm_up": 2, "latent_size": 2, "hidden_size": 4, "samples": 3, "images": 0}
SMALL |= {"chunk": 2, "log_interval": 2, "validation_interval": 2, "channels": 2, "prior_depth": 1}

OWN: dict[str, tuple[Any, ...]] = {  # values of settings, extremes included, each of which some run accepts
    "seed": (0, 1, 2**31, 2**32, 2**63),
    "learning_rate": (0.0, 1e-8, 1e-3, 1.0, 1e6),
    "learning_rate_warm_up": (0, 1, 100),
    "weight_decay": (0.0, 1e-3, 1.0, 1e6),
    "clip": (0.0, 1e-6, 1.0, 1e6),
    "adam_epsilon": (1e-300, 1e-8, 1.0, 1e6),
    "rmsprop_epsilon": (1e-300, 1e-8, 1.0, 1e6),
    "rmsprop_initial_accumulator": (0.0, 1.0, 1e6),
    "samples": (1, 2, 24, 25, 26),
    "images": (0, 1),
    "warm_up": (0, 1, 100),
    "compile_from": (0, 1, 100),
    "batch_size": (1, 2, 4, 6),
    "device": ("cpu",),
    "devices": (1,),
}
WHOLE = (1, 2, 3, 5)
SHARES = (0.0, 1e-6, 0.5, 0.999999)  # of settings below 1
BAD = (0, -1, 1.5, 10**12, math.nan, math.inf, "none", None)  # one of which a setting may have
SHAPES = ((1, 1), (1, 5), (2, 2), (3, 7), (4, 4), (8, 8))
IMAGES = ("random", "all black", "all white", "one image")


def draws(seed: int, block: int) -> list[dict[str, Any]]:
    """{settings, bad, shape, images} of each round of the block."""
    try:
        from hypothesis import HealthCheck, Phase, given, settings, strategies
        from hypothesis import seed as seeded
    except ImportError as error:
        raise UserError("This scenario needs hypothesis; `python -m pip install -r environments/dev.txt`.") from error

    found: list[dict[str, Any]] = []
    known = values()
    good = strategies.fixed_dictionaries({}, optional={name: strategies.sampled_from(of) for name, of in known.items()})
    names = strategies.sampled_from([name for name in known if name not in LONG])
    bad = strategies.tuples(names, strategies.sampled_from(BAD)).map(lambda one: dict([one]))
    options = {
        "settings": good,
        "bad": strategies.one_of(strategies.just({}), strategies.just({}), strategies.just({}), bad),
        "shape": strategies.sampled_from(SHAPES),
        "images": strategies.sampled_from(IMAGES),
    }

    @seeded(1_000_003 * seed + block)
    @settings(
        max_examples=BLOCK, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(strategies.fixed_dictionaries(options))
    def collect(drawn: dict[str, Any]) -> None:
        found.append(drawn)

    while len(found) < BLOCK:  # hypothesis ends sooner where it has seen all that it knows
        collect()
    return found[:BLOCK]


def values() -> dict[str, tuple[Any, ...]]:
    """Setting → the values that are drawn, of every flag of the config."""
    found: dict[str, tuple[Any, ...]] = {}
    for owner in (*(getattr(Config(), section) for section in SECTIONS), Config()):
        hints = get_type_hints(type(owner))
        for of in dataclasses.fields(owner):
            if "help" in of.metadata:
                found[of.name] = OWN.get(of.name) or _of(hints[of.name])
    return found


def _of(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return (False, True) if kind is bool else WHOLE if kind is int else SHARES


def rounds(
    count: int, *, seed: int, folder: Path, tell: Tell, work: Callable[[dict[str, Any]], dict[str, float]] | None = None
) -> Tried:
    """`work` makes a run: `trained`, or in a test a careless one."""
    tried = Tried()
    one_thread = mock.patch.dict(os.environ, threads.variables(1, disturbed=True))  # models so small are slower on several
    for block in range(-(-count // BLOCK)):
        backend = BACKENDS[block % len(BACKENDS)]
        with one_thread, bounded.asked(work or trained, patience=PATIENCE, folder=folder, limited=False) as process:
            for drawn in draws(seed, block)[: count - tried.rounds]:
                outcome, fault = judged(process.ask(drawn | {"backend": backend}))
                tried.add(f"{backend}: {outcome}", faults=[f"{backend}, {drawn}: {fault}"] if fault else None)
                tell(1)
    return tried


def trained(question: dict[str, Any]) -> dict[str, float]:
    """The numbers of a run's curve and test."""
    dataset = data.of_arrays(images(question["images"], question["shape"]), binarize=None)
    chosen = SMALL | {"batch_size": min(4, len(dataset.train))} | question["settings"] | question["bad"]
    config = presets.preset("quick").replace(**chosen, image_shape=dataset.image_shape)
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    name = question["backend"]
    backend = protocol.load(name)
    job = Job(name, "quick", dataset.name, None, config, results="", resume=False)
    try:
        checkpoint, session = runs.begin(job, backend=backend, dataset=dataset)
        training.train(session, checkpoint, dataset=dataset)
        of_images = scoring.scores(backend, checkpoint.selected(), config=config, dataset=dataset, progress=Progress(name))
    except MemoryError as error:  # `benchmarks.__main__` says so
        raise UserError(f"There isn't enough memory ({error}).") from error
    estimators.refuse_divergence(of_images)
    test = estimators.summary(of_images)
    curve = {f"{column} {i}": value for column in checkpoints.CURVE for i, value in enumerate(checkpoint.history[column])}
    return curve | {name: float(getattr(test, name)) for name in ("elbo", "log_px", "ess")}


def images(kind: str, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Splits of 6, 3 and 3 images of this shape; of one image each."""
    sizes = {"train": 1, "valid": 1, "test": 1} if kind == "one image" else {"train": 6, "valid": 3, "test": 3}
    generator = np.random.default_rng(0)
    drawn = {split: generator.integers(0, 2, (size, *shape), dtype=np.uint8) for split, size in sizes.items()}
    fill = {"all black": 0, "all white": 1}.get(kind)
    return drawn if fill is None else {split: np.full_like(of, fill) for split, of in drawn.items()}


def judged(answer: bounded.Answer) -> tuple[str, str | None]:
    """(outcome, fault or None) of a run."""
    if answer.fault:
        return "a crash, a hang or a traceback", answer.fault
    if answer.refusal is not None:
        return "a sentence", None if answer.refusal.rstrip().endswith((".", "?")) else f"no sentence: {answer.refusal}"
    bad = {name: value for name, value in answer.value.items() if not math.isfinite(value)}
    return ("a number that isn't finite", f"not finite: {bad}") if bad else ("finite numbers", None)
