"""The calls of the contract that are timed, and a process that times them.

`compare` starts this file in another revision's checkout too: each side runs its own `backends/` and `common/`, and this file
times both. So this file imports `common` alone, and makes a session as each contract so far did.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common import parameters, protocol
from common.config import Config
from common.data import minibatches
from common.errors import UserError

IMAGES = 10_000
ROWS_A_CALL = 2048  # images of a timed call, which has many steps and one synchronisation
SAMPLES = 25  # K of the log weights: one block of evaluation noise
TURN_SECONDS = 0.15  # about how long a turn repeats its call

Work = Callable[[], object]
Launch = Callable[[int], None]  # does so many steps
Products = Sequence[Sequence[int]]  # as `Product` of common/parameters.py


def steps_a_call(kind: str, batch: int) -> int:
    """The steps of a call: about ROWS_A_CALL images, or samples of images where log weights are timed; at least one step."""
    return max(1, ROWS_A_CALL // (batch * SAMPLES if kind == "log_weights" else batch))


class Calls:
    """A session of one backend, and its calls. The images are random: no time depends on the pixels' values."""

    def __init__(self, backend: str, config: Config):
        self.config = config
        self.backend: Any = protocol.load(backend)
        self.probes: Any = protocol.probes(backend) if hasattr(protocol, "probes") else None  # earlier contracts have none
        self.draws = np.random.default_rng(0)
        self.images = (self.draws.integers(256, size=(IMAGES, config.model.pixels), dtype=np.uint8) < 33).astype(np.uint8)
        initial = parameters.initial_parameters(
            config.model, training=config.training, pixel_log_odds=np.full(config.model.pixels, -1.9)
        )
        state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
        self.session = created(self.backend, config, state)
        self.handle = self.session.place(self.images)

    def work(self, kind: str, *, batch: int, steps: int) -> Work:
        """One call: `steps` steps of `batch` images each. Raises `KeyError` for an unknown kind."""
        rows = np.arange(batch, dtype=np.int32)
        latents = self.draws.standard_normal((1, batch, self.config.model.latent_size))
        images, z = np.array(self.images[:batch]), latents[0].astype(self.config.dtype)
        if kind == "train":
            indices = minibatches(images=IMAGES, batch_size=batch, seed=0, first_step=0, steps=steps)
            rates: dict[str, Any] = {"learning_rates": np.full(steps, 1e-4), "kl_weights": np.ones(steps)}
            return lambda: self.session.train(self.handle, indices, first_step=0, **rates, seed=0, noise=None)
        if kind == "gradient":
            return functools.partial(self._gradient(rows, noise=latents, kl_weight=1.0), steps)
        step: Work = {
            "log_weights": lambda: self.session.log_weights(self.handle, rows, samples=range(SAMPLES), seed=0, noise=None),
            "sampling": lambda: self.session.decode(z),
            "placement": lambda: self.session.place(images),
        }[kind]

        def repeat() -> None:
            for _ in range(steps):
                step()

        return repeat

    def _gradient(self, rows: np.ndarray, **arguments: Any) -> Launch:
        if self.probes:
            return self.probes.gradient(self.session, self.handle, rows, **arguments)
        if not hasattr(self.session, "gradient"):
            raise UserError("This revision is too old to time the gradient alone; choose other benchmarks with -k.")
        return self.session.gradient(self.handle, rows, **arguments)

    def products(self, products: Products) -> Launch:
        """These matrix products, compiled, in the config's precision."""
        make = self.probes.products if self.probes else self.backend.probe
        sizes = [tuple(product) for product in products]
        launch: Launch = make(products=sizes, device=self.config.device, dtype=self.config.factors)
        launch(1)  # compiles
        return launch


def created(backend: Any, config: Config, state: parameters.State) -> Any:
    """A session. Earlier contracts took the config's sections apart, the earliest contract without a precision."""
    takes = inspect.signature(backend.create).parameters
    if "config" in takes:
        return backend.create(config, state)
    sections = ("optimizer", "training", "device", "dtype", "precision")
    return backend.create(config.model, state, **{name: getattr(config, name) for name in sections if name in takes})


def configured(values: dict[str, Any]) -> Config:
    """The inverse of `Config.as_dict` at `standard`'s image shape; settings that this revision doesn't have yet are left out.

    Raises `UserError` for a precision that this revision doesn't have.
    """
    config = Config()
    parts = (config, config.model, config.optimizer, config.training, config.evaluation)
    names = {field.name for part in parts for field in dataclasses.fields(part)}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        settings |= value if isinstance(value, dict) else {name: value}
    if "precision" not in names and settings["precision"] != "full":
        raise UserError(f"This revision is too old to compute in {settings['precision']}; leave --precision out.")
    return config.replace(**{name: value for name, value in settings.items() if name in names})


# --- the process ---


def seconds(work: Work, synchronize: Callable[[], None], *, calls: int = 1) -> float:
    """The mean seconds of a call, from an idle device to an idle device; not by the revision's own clock."""
    total = 0.0
    for _ in range(calls):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        total += time.perf_counter() - start
    return total / calls


def main() -> int:
    """Stdin: what to time, a line of JSON; then a line a turn. Stdout: "ready"; then {kind: seconds} in JSON, a line a turn."""
    answers, sys.stdout = sys.stdout, sys.stderr  # a framework's own prints are no answer
    try:
        asked = json.loads(sys.stdin.readline())
        calls = Calls(asked["backend"], configured(asked["config"]))
        works: dict[str, tuple[Work, int]] = {}  # kind → (the call, how often a turn repeats it)
        for kind in asked["kinds"]:
            steps = steps_a_call(kind, asked["batch"])
            if kind == "products":
                work: Work = functools.partial(calls.products(asked["products"]), steps)
            else:
                work = calls.work(kind, batch=asked["batch"], steps=steps)
            work()  # compiles
            once = seconds(work, calls.session.synchronize)
            works[kind] = work, max(1, round(TURN_SECONDS / max(once, 1e-6)))
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            turn = {kind: seconds(work, calls.session.synchronize, calls=repeats) for kind, (work, repeats) in works.items()}
            print(json.dumps(turn), file=answers, flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the parent process prints the message
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
