"""What one backend computes at each rung of the ladder that `benchmarks.parity` climbs, from given weights to a score.

A scenario is one session's way up. What it computes depends on the scenario and the images alone, so that two backends that are
the same function give the same arrays under the same names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import data, estimators
from common.config import Config, Device, Model
from common.noise import LADDER_EVALUATION, LADDER_FORWARD, LADDER_START, generator, training_noise
from common.parameters import State, fresh_state, initial_parameters
from common.protocol import Backend, Session
from common.schedules import kl_weights, learning_rates

KL_WEIGHT = 0.3  # β of the rungs before training
SAMPLES = (1, 3)  # k of those rungs
TRAINED = (1, 10, 100)  # steps after which the state is looked at
EVALUATION_SAMPLES = 30  # K: neither a whole number of noise blocks nor of sample blocks
LARGE_LOGIT = 21.0  # where softplus(x) is x in float32, and not in float64

# The rungs before training, in order, with the quantities of `Session.inspect` that each has; gradients are the last one's.
FORWARD = {
    "encoder": ("loc", "scale", "context"),
    "base": ("base_z", "base_log_q"),
    "posterior": ("log_det", "z", "log_q"),
    "decoder": ("logits",),
    "densities": ("log_p_x_given_z", "log_p_z"),
    "log-weights": ("log_weights",),
    "objective": ("objective",),
    "gradients": (),
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A model with an optimizer, and how far up it goes."""

    name: str
    config: Config
    steps_before: int  # steps that the state has had: with some, it has moments and a moving average of its own
    chunks: tuple[int, ...]  # steps a call
    whole: bool  # with the rungs before and after training
    device_noise: bool  # and the one of the noise that a backend draws itself

    @property
    def rungs(self) -> tuple[str, ...]:
        """In bfloat16 up to one step, of the compiled gradient: one backend rounds a weight's gradient, and that grows."""
        if self.config.precision != "full":
            return ("parameters", *FORWARD, "steps-1")
        trained = tuple(f"steps-{n}" for n in TRAINED)
        noise = ("device-noise",) if self.device_noise else ()
        if not self.whole:
            return ("parameters", *trained)
        return ("parameters", *FORWARD, *trained, "evaluation", *noise)

    def on(self, device: Device) -> Scenario:
        """The same, there."""
        return dataclasses.replace(self, config=self.config.replace(device=device))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scenario:
        """The inverse of `dataclasses.asdict`, through JSON."""
        return cls(**values | {"config": Config.from_dict(values["config"]), "chunks": tuple(values["chunks"])})


# The rule of the float32 scenarios. Where a gradient is nothing but rounding, Adam takes a whole step of either sign, and so do
# RMSprop's other variants once their accumulators have forgotten how they started: float32 runs part within tens of steps. Here
# the accumulator keeps more than a third of its initial 1 for 100 steps, so that an update is as smooth as the gradient itself.
SMOOTH_RULE = "rmsprop-smooth"
SMOOTH = {"optimizer": "rmsprop", "rmsprop_epsilon": 1e-6, "rmsprop_decay": 0.99, "rmsprop_initial_accumulator": 1.0}


def rules() -> dict[str, dict[str, Any]]:
    """Name → settings of every update rule: Adam without and with weight decay, and RMSprop's eight variants.

    RMSprop has weight decay where its accumulator starts at 1.
    """
    result: dict[str, dict[str, Any]] = {
        "adam": {"optimizer": "adam"},
        "adam-decay": {"optimizer": "adam", "weight_decay": 0.1},
    }
    for where in ("outside", "in-root"):
        for centered in ("plain", "centered"):
            for accumulator in (0, 1):
                result[f"rmsprop-{where}-{centered}-{accumulator}"] = {
                    "optimizer": "rmsprop",
                    "rmsprop_epsilon": 1e-6,
                    "rmsprop_epsilon_in_root": where == "in-root",
                    "rmsprop_centered": centered == "centered",
                    "rmsprop_initial_accumulator": float(accumulator),
                    "weight_decay": 0.1 * accumulator,
                }
    return result


def scenario(family: str, rule: str, factors: str, *, sizes: Config, whole: bool, chunks: tuple[int, ...]) -> Scenario:
    """One with warm-up, cosine decay, two samples and a moving average. `adam-decay` continues another run's state."""
    precision = {"dtype": "float32", "precision": "bfloat16"} if factors == "bfloat16" else {"dtype": factors}
    settings: dict[str, Any] = {"steps": TRAINED[-1], "warm_up": 50, "objective_samples": 2, "ema_decay": 0.9}
    config = sizes.replace(variational=family, **precision, **settings | (rules() | {SMOOTH_RULE: SMOOTH})[rule])
    before = 7 if rule == "adam-decay" else 0
    return Scenario(
        name=f"{family} {rule} {factors}",
        config=config.replace(steps=config.training.steps + before),
        steps_before=before,
        chunks=chunks,
        whole=whole,
        device_noise=whole and (family, factors) == ("mean-field", "float64"),
    )


SMALL = Config(model=Model(image_shape=(3, 4))).replace(latent_size=4, hidden_size=11, flow_depth=2, batch_size=20)
# Rounding to bfloat16 opens or shuts a ReLU now and then, which moves one image's gradient by all that goes through it.
MANY_IMAGES = SMALL.replace(hidden_size=32, batch_size=300)
STEP_BY_STEP = (1,) * TRAINED[-1]
IN_CHUNKS = (1, *(9,) * 11)  # two lengths reach every step of TRAINED, and each length is compiled


def small() -> list[Scenario]:
    """Every rung and every rule in seconds: what takes time is compiling, once a length of chunk and rule."""
    whole = [("flow", "adam-decay", "float64"), ("mean-field", "adam", "float64"), ("flow", SMOOTH_RULE, "float32")]
    rest = [("flow", "rmsprop-outside-centered-0", "float64")]
    rest += [("mean-field", rule, "float64") for rule in rules() if not rule.startswith("adam")]
    return [
        scenario(*names, sizes=SMALL, whole=names in whole, chunks=IN_CHUNKS if names == whole[0] else STEP_BY_STEP)
        for names in whole + rest
    ] + [scenario("flow", "adam", "bfloat16", sizes=MANY_IMAGES, whole=True, chunks=(1,))]


def standard(sizes: Config) -> list[Scenario]:
    """Every rule on mean-field in float64; on the flow, since a rule sees one parameter at a time, three.

    Those that go all the way are compiled in PyTorch too, as long runs are.
    """
    pairs = [("mean-field", rule) for rule in rules()]
    pairs += [("flow", rule) for rule in ("adam", "adam-decay", "rmsprop-outside-centered-0")]
    names = [(*pair, "float64") for pair in pairs] + [(family, SMOOTH_RULE, "float32") for family in ("mean-field", "flow")]
    whole = ("adam", SMOOTH_RULE)
    return [
        scenario(
            *name, sizes=sizes.replace(compile_from=1) if name[1] in whole else sizes, whole=name[1] in whole, chunks=IN_CHUNKS
        )
        for name in names
    ]


def start(scenario: Scenario, train: np.ndarray) -> State:
    """A state away from the zeros and ones that it would start with, masked weights too; one pixel has a large logit."""
    config = scenario.config
    draws = generator(0, LADDER_START)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(train))

    def moved(value: np.ndarray) -> np.ndarray:
        inputs = value.shape[0] if value.ndim == 2 else 10
        return value + 0.3 / np.sqrt(inputs) * draws.standard_normal(value.shape)

    parameters = {name: moved(value) for name, value in initial.items()}
    parameters["decoder.out.bias"][0] = LARGE_LOGIT
    state = fresh_state(parameters, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    if scenario.steps_before:
        state["step"] = np.array(scenario.steps_before, dtype=np.int64)
        for name, value in state.items():
            if name.startswith("ema/"):
                state[name] = moved(value).astype(config.dtype)
            if name.startswith("optimizer/first_moment/"):
                state[name] = (1e-2 * draws.standard_normal(value.shape)).astype(config.dtype)
            if name.startswith("optimizer/second_moment/"):
                state[name] = (1e-4 * draws.random(value.shape)).astype(config.dtype)
    return state


def climb(backend: Backend, scenario: Scenario, *, train: np.ndarray, test: np.ndarray) -> Iterator[tuple[str, State]]:
    """Rung by rung, in the order of `scenario.rungs`: (rung, name → array). Images are [images, pixels] of 0 and 1."""
    config = scenario.config
    session = create(backend, config, start(scenario, train))
    yield "parameters", session.state()
    if scenario.whole:
        yield from forward(session, config, train)
    yield from training(session, scenario, train)
    if "evaluation" in scenario.rungs:
        yield "evaluation", evaluation(session, config, test)
    if scenario.device_noise:
        yield "device-noise", device_noise(backend, config, train)


def create(backend: Backend, config: Config, state: State) -> Session:
    return backend.create(config, state)


def forward(session: Session, config: Config, train: np.ndarray) -> Iterator[tuple[str, State]]:
    """One pass and its gradients, on given noise, for each k; and the session's other ways to the same quantities."""
    rows = np.arange(config.training.batch_size, dtype=np.int32)
    handle = session.place(train)
    draws = generator(0, LADDER_FORWARD)
    shape = (max(SAMPLES), len(rows), config.model.latent_size)
    noise = draws.standard_normal(shape).astype(config.dtype)
    found: dict[str, State] = {rung: {} for rung in FORWARD}
    for k in SAMPLES:
        for name, value in session.inspect(handle, rows, noise=noise[:k], kl_weight=KL_WEIGHT).items():
            rung = rung_of(name)
            found[rung][f"k={k}/{name}"] = value
    found["posterior"]["encode"] = session.encode(train[rows], noise)
    found["decoder"]["decode"] = session.decode(noise[0])
    found["log-weights"]["log_weights, β=1"] = session.log_weights(
        handle, rows, samples=range(max(SAMPLES)), seed=0, noise=noise
    )
    yield from found.items()


def rung_of(name: str) -> str:
    """The rung of a quantity of `Session.inspect`. Raises `ValueError` for a quantity that has none."""
    if name.startswith("gradient/"):
        return "gradients"
    if name.startswith("flow.blocks."):
        return "posterior"
    for rung, names in FORWARD.items():
        if name in names:
            return rung
    raise ValueError(f"the ladder has no rung for {name}")


def training(session: Session, scenario: Scenario, train: np.ndarray) -> Iterator[tuple[str, State]]:
    """The state after TRAINED steps on given noise, with what training has returned so far."""
    config, handle = scenario.config, session.place(train)
    shape = (config.training.objective_samples, config.training.batch_size, config.model.latent_size)
    done, objectives, elbos = 0, [], []
    for steps in scenario.chunks:
        window = {"first_step": scenario.steps_before + done, "steps": steps}
        objective, elbo = session.train(
            handle,
            data.minibatches(images=len(train), batch_size=config.training.batch_size, seed=0, **window),
            first_step=window["first_step"],
            learning_rates=learning_rates(config.optimizer, total_steps=config.training.steps, **window),
            kl_weights=kl_weights(config.training, **window),
            seed=0,
            noise=training_noise(seed=0, shape=shape, dtype=config.dtype, **window),
        )
        done += steps
        objectives.append(objective)
        elbos.append(elbo)
        if done in TRAINED:
            returned = {"objective": np.concatenate(objectives), "elbo": np.concatenate(elbos)}
            yield f"steps-{done}", session.state() | returned


@dataclass(frozen=True)
class GivenNoise:
    """A session as the estimators see one, whose evaluation noise [samples, images, latent] is given."""

    session: Session
    noise: np.ndarray

    def log_weights(
        self, handle: Any, indices: np.ndarray, *, samples: range, seed: int, noise: np.ndarray | None
    ) -> np.ndarray:
        given = self.noise[samples.start : samples.stop, indices]
        return self.session.log_weights(handle, indices, samples=samples, seed=seed, noise=given)


def evaluation(session: Session, config: Config, test: np.ndarray) -> State:
    """ELBO, log p(x), their errors and the effective sample size of the whole test set, by the estimators, on given noise."""
    draws = generator(0, LADDER_EVALUATION)
    shape = (2 * EVALUATION_SAMPLES, len(test), config.model.latent_size)
    given: Any = GivenNoise(session, draws.standard_normal(shape).astype(config.dtype))
    estimates = estimators.estimate(
        given,
        session.place(test),
        images=np.arange(len(test), dtype=np.int32),
        samples=EVALUATION_SAMPLES,
        seed=0,
        image_batch=len(test) // 2 - 1,  # the last batch has two images
        sample_block=1,
        report=lambda images: None,
    )
    return {name: np.asarray(value) for name, value in dataclasses.asdict(estimates).items()}


def device_noise(backend: Backend, config: Config, train: np.ndarray) -> State:
    """What is wrong with the noise that the backend draws itself, as numbers that must all be 0.

    A model without weights, whose q is N(1, I), shows its noise: log w = −pixels·log 2 − Σ(ε + 1/2), the sum over latents. So
    Σε/√latent must be standard normal, and no value may come twice, whatever the steps, images, samples and calls.
    """
    latent, pixels, batch, steps = config.model.latent_size, config.model.pixels, config.training.batch_size, 32
    zeros = initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(pixels))
    parameters = {name: np.zeros_like(value) for name, value in zeros.items()}
    parameters["encoder.out.bias"] = np.repeat([1.0, np.log(np.e - 1)], latent)
    config = config.replace(objective_samples=1)
    state = fresh_state(parameters, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    session = create(backend, config, state)
    handle = session.place(train)

    def standardised(log_w: np.ndarray, draws: int) -> np.ndarray:
        """From means of log w over so many draws."""
        return (-pixels * np.log(2) - latent / 2 - log_w) * np.sqrt(draws / latent)

    rows = np.arange(batch, dtype=np.int32)
    objectives = [
        session.train(
            handle,
            np.tile(rows, (steps, 1)),
            first_step=first,
            learning_rates=np.zeros(steps),
            kl_weights=np.ones(steps),
            seed=0,
            noise=None,
        )[0]
        for first in (0, steps)
    ]
    # As many of each, so that the second call compiles nothing.
    first, second = (
        session.log_weights(handle, images, samples=samples, seed=0, noise=None)
        for images, samples in ((rows, range(50)), (rows[::-1].copy(), range(25, 75)))
    )
    trained, evaluated = standardised(np.concatenate(objectives), batch), standardised(first, 1)
    return {
        "training: values that come twice": repeats(trained),
        "training: not standard normal": not_standard_normal(trained),
        "evaluation: values that come twice": repeats(evaluated),
        "evaluation: not standard normal": not_standard_normal(evaluated),
        "evaluation: another call, other noise": np.asarray(int(np.abs(second[:25, ::-1] - first[25:]).max() > 1e-9)),
        "training and evaluation: values in both": repeats(np.concatenate([trained, evaluated.ravel()])),
    }


def repeats(values: np.ndarray) -> np.ndarray:
    """How many of the values are others' copies, but for rounding."""
    return np.asarray(values.size - len(np.unique(values.round(9))))


def not_standard_normal(values: np.ndarray) -> np.ndarray:
    """1 where the values' mean or variance is more than five standard errors from that of N(0, 1)."""
    n = values.size
    return np.asarray(int(abs(values.mean()) > 5 / np.sqrt(n) or abs(values.var() - 1) > 5 * np.sqrt(2 / n)))
