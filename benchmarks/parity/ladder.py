"""The arrays that one backend computes at each rung of the ladder, from given weights to a score.

The arrays depend on the scenario and the images alone: backends that are the same function give the same arrays.
`comparison.py` compares them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.parity import device_noise
from common import data, estimators
from common.config import Config, Model
from common.noise import LADDER_EVALUATION, LADDER_FORWARD, LADDER_START, generator
from common.parameters import State, fresh_state, initial_parameters, noise_size
from common.protocol import Backend, Session
from common.training import chunk

KL_WEIGHT = 0.3  # β of the rungs before training
SAMPLES = (1, 3)  # k of those rungs
TRAINED = (1, 10, 100)  # steps of training after which the state is compared
EVALUATION_SAMPLES = 30  # K: neither a whole number of noise blocks nor of sample blocks
LARGE_LOGIT = 21.0  # where softplus(x) is x in float32, and not in float64

# The rungs before training, in order, each with its quantities of `Session.inspect`. `posterior` also has those of each block
# of the flow, and `gradients` has every gradient.
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
    """A model and an optimizer, and the rungs that one session of them climbs."""

    name: str
    config: Config
    steps_before: int  # steps done in the initial state; where they aren't 0, its moments and EMA are drawn at random
    chunks: Sequence[int]  # steps a call
    whole: bool  # False: only the rungs of training

    @property
    def rungs(self) -> tuple[str, ...]:
        """The scenario's rungs, in order.

        In bfloat16 training ends after one step: PyTorch rounds a weight's gradient, and the difference grows over steps.
        A backend draws its noise by the same code for every model and precision: mean-field in float64 alone climbs that rung.
        """
        if self.config.precision != "full":
            return ("parameters", *FORWARD, "steps-1")
        trained = tuple(f"steps-{n}" for n in TRAINED)
        if not self.whole:
            return ("parameters", *trained)
        noise = ("device-noise",) if plain(self.config) and self.config.model.variational == "mean-field" else ()
        return ("parameters", *FORWARD, *trained, "evaluation", *noise)


def plain(config: Config) -> bool:
    """Whether it is the MLP with a standard prior in float64: there alone the ladder looks at calls that all models share."""
    return (config.dtype, config.model.network, config.model.prior) == ("float64", "mlp", "standard")


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
    for where, centered, accumulator in product(("outside", "in-root"), ("plain", "centered"), (0, 1)):
        result[f"rmsprop-{where}-{centered}-{accumulator}"] = {
            "optimizer": "rmsprop",
            "rmsprop_epsilon": 1e-6,
            "rmsprop_epsilon_in_root": where == "in-root",
            "rmsprop_centered": centered == "centered",
            "rmsprop_initial_accumulator": float(accumulator),
            "weight_decay": 0.1 * accumulator,
        }
    return result


def scenario(family: str, rule: str, factors: str, *, sizes: Config, whole: bool, chunks: Sequence[int]) -> Scenario:
    """A scenario with warm-up, cosine decay, two samples, EMA and given noise. `adam-decay` continues another run's state."""
    precision = {"dtype": "float32", "precision": "bfloat16"} if factors == "bfloat16" else {"dtype": factors}
    before = 7 if rule == "adam-decay" else 0
    settings = {"steps": TRAINED[-1] + before, "warm_up": 50, "objective_samples": 2, "ema_decay": 0.9, "noise": "shared"}
    settings |= precision | (rules() | {SMOOTH_RULE: SMOOTH})[rule]
    config = sizes.replace(variational=family, **settings)
    name = " ".join([*_named(sizes), family, rule, factors])
    return Scenario(name=name, config=config, steps_before=before, chunks=chunks, whole=whole)


def _named(sizes: Config) -> list[str]:
    """What the model has beside today's settings, as words of a scenario's name."""
    model = sizes.model
    return [word for word, there in (("resnet", model.network == "resnet"), ("prior", model.prior == "flow")) if there]


SMALL = Config(model=Model(image_shape=(3, 4))).replace(latent_size=4, hidden_size=11, flow_depth=2, batch_size=20)
# Convolutional sizes, with twice as many rows as half the columns, so that no axis passes for another.
RESNET = {
    "network": "resnet",
    "image_shape": (12, 8),
    "channels": 3,
    "dropout": 0.2,
    "clip": 0.5,
    "learning_rate_warm_up": 20,
    "decayed": "weights",
}
# Images a batch of the residual network with both flows. At `standard`'s sizes 128 images take minutes in float64. In float32
# 3 samples of them pass 2.4 million ReLUs of the flows: the input of one was -2.6e-7, so that it opened in one framework alone
# and moved a column of a gradient by 3e-3. 20 images pass a sixth as many.
FEW = 20
STEP_BY_STEP = (1,) * TRAINED[-1]
IN_CHUNKS = (1, *(9,) * 11)  # two lengths reach every step of TRAINED, and each length is compiled


def small(sizes: Config = SMALL) -> list[Scenario]:
    """Every rung and every rule in seconds, most of which go into compiling, once for each length of chunk and rule."""
    whole = [("flow", "adam-decay", "float64"), ("mean-field", "adam", "float64"), ("flow", SMOOTH_RULE, "float32")]
    rest = [("flow", "rmsprop-outside-centered-0", "float64")]
    rest += [("mean-field", rule, "float64") for rule in rules() if not rule.startswith("adam")]
    # Rounding to bfloat16 opens or shuts a ReLU now and then, which moves one image's gradient by all that goes through it.
    many_images = sizes.replace(hidden_size=32, batch_size=300)
    residual = sizes.replace(**RESNET)
    return [
        scenario(*names, sizes=sizes, whole=names in whole, chunks=IN_CHUNKS if names == whole[0] else STEP_BY_STEP)
        for names in whole + rest
    ] + [
        scenario("flow", "adam", "bfloat16", sizes=many_images, whole=True, chunks=(1,)),
        *convolutional(residual, both_flows=residual, chunks=STEP_BY_STEP),
        scenario("mean-field", SMOOTH_RULE, "bfloat16", sizes=at_once(many_images.replace(**RESNET)), whole=True, chunks=(1,)),
    ]


def convolutional(sizes: Config, *, both_flows: Config, chunks: Sequence[int]) -> list[Scenario]:
    """The residual network with either posterior and either prior, and the MLP with a flow prior; all with dropout.

    `both_flows`: the sizes of the residual network whose posterior and prior are flows.
    """
    with_prior, mlp = sizes.replace(prior="flow"), sizes.replace(prior="flow", network="mlp")
    both = both_flows.replace(prior="flow", batch_size=FEW)
    names = [
        (sizes, "mean-field", "adam", "float64"),
        (sizes, "flow", "adam", "float64"),
        (with_prior, "mean-field", "adam-decay", "float64"),
        (both, "flow", "adam-decay", "float64"),
        (mlp, "mean-field", "adam-decay", "float64"),
        (at_once(both), "flow", SMOOTH_RULE, "float32"),
    ]
    return [scenario(*name, sizes=own, whole=True, chunks=chunks) for own, *name in names]


def at_once(sizes: Config) -> Config:
    """A first step by a twentieth of the rate, on a shortened gradient, would leave some float32 weights as they are."""
    return sizes.replace(learning_rate_warm_up=0, clip=0.0)


def standard(sizes: Config) -> list[Scenario]:
    """Every rule on mean-field in float64, three rules on the flow, since a rule sees one parameter at a time; `convolutional`.

    PyTorch compiles the MLP's whole scenarios, as it does long runs, and the residual network with both flows; that network has
    the channels of `sizes`.
    """
    pairs = [("mean-field", rule) for rule in rules()]
    pairs += [("flow", rule) for rule in ("adam", "adam-decay", "rmsprop-outside-centered-0")]
    names = [(*pair, "float64") for pair in pairs] + [(family, SMOOTH_RULE, "float32") for family in ("mean-field", "flow")]
    whole, compiled = ("adam", SMOOTH_RULE), sizes.replace(compile_from=1)
    residual = RESNET | {"image_shape": sizes.model.image_shape}
    both_flows = compiled.replace(**residual | {"channels": sizes.model.channels})
    return [
        scenario(*name, sizes=compiled if name[1] in whole else sizes, whole=name[1] in whole, chunks=IN_CHUNKS)
        for name in names
    ] + convolutional(sizes.replace(**residual), both_flows=both_flows, chunks=IN_CHUNKS)


RANDOM = "seeded random images"


def random_images(pixels: int) -> State:
    """Images of 0 and 1 in place of a data set, uint8 [images, pixels]: `train`, fifteen small minibatches, and `test`.

    A scenario of smaller images takes their first pixels.
    """
    draws = np.random.default_rng(0)
    return {split: (draws.random((n, pixels)) < 0.3).astype(np.uint8) for split, n in (("train", 310), ("test", 51))}


def small_images() -> State:
    """`random_images` for every scenario of `small`."""
    return random_images(max(scenario.config.model.pixels for scenario in small()))


def start(scenario: Scenario, train: np.ndarray) -> State:
    """A state with no parameter at its initial 0 or 1, masked weights included; one pixel has a large logit."""
    config = scenario.config
    draws = generator(0, LADDER_START)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(train))

    def moved(value: np.ndarray) -> np.ndarray:
        inputs = math.prod(value.shape[:-1]) if value.ndim > 1 else 10
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
    train, test = (np.ascontiguousarray(images[:, : config.model.pixels]) for images in (train, test))
    session = backend.create(config, start(scenario, train))
    yield "parameters", session.state()
    if scenario.whole:
        yield from forward(session, config, train)
    yield from training(session, scenario, train)
    if "evaluation" in scenario.rungs:
        yield "evaluation", evaluation(session, config, test)
    if "device-noise" in scenario.rungs:
        yield "device-noise", device_noise.faults(backend, config)


def forward(session: Session, config: Config, train: np.ndarray) -> Iterator[tuple[str, State]]:
    """One pass and its gradients, on given noise, for each k; and the session's other ways to the same quantities.

    Dropout is on in the pass, and nowhere else.
    """
    rows = np.arange(config.training.batch_size, dtype=np.int32)
    handle = session.place(train)
    shape = (max(SAMPLES), len(rows), noise_size(config.model))
    noise = generator(0, LADDER_FORWARD).standard_normal(shape).astype(config.dtype)
    found: dict[str, State] = {rung: {} for rung in FORWARD}
    rung_of = {name: rung for rung, names in FORWARD.items() for name in names}
    rung_of |= {"gradient": "gradients", "flow": "posterior", "prior": "densities"}
    for k in SAMPLES:
        for name, value in session.inspect(handle, rows, noise=noise[:k], kl_weight=KL_WEIGHT).items():
            group = name.partition("/")[0].partition(".")[0]
            found[rung_of[group]][f"k={k}/{name}"] = value
    noise = noise[..., : config.model.latent_size]  # nothing else drops units
    found["posterior"]["encode"] = session.encode(train[rows], noise)
    found["decoder"]["decode"] = session.decode(noise[0])
    if config.model.prior == "flow":
        found["densities"]["prior"] = session.prior(noise[0])
    log_weights = session.log_weights(handle, rows, samples=range(max(SAMPLES)), seed=0, noise=noise)
    found["log-weights"]["log_weights, β=1"] = log_weights
    if plain(config):
        outputs = session.outputs(handle, rows)
        slopes = session.slopes(handle, rows, outputs=outputs, noise=noise)
        found["encoder"]["outputs"] = outputs
        found["posterior"]["noise_of"] = session.noise_of(train[rows], session.encode(train[rows], noise))
        found["log-weights"]["slopes"] = slopes[0]
        found["gradients"] |= {"log w by noise": slopes[1], "log w by outputs": slopes[2]}
    yield from found.items()


def training(session: Session, scenario: Scenario, train: np.ndarray) -> Iterator[tuple[str, State]]:
    """The state after TRAINED steps on given noise, with the objectives and ELBOs that training has returned so far."""
    handle, done, returned = session.place(train), 0, []
    for steps in scenario.chunks:
        arguments = chunk(scenario.config, images=len(train), first_step=scenario.steps_before + done, steps=steps)
        returned.append(session.train(handle, **arguments))
        done += steps
        if done in TRAINED:
            objective, elbo = (np.concatenate(values) for values in zip(*returned, strict=True))
            yield f"steps-{done}", session.state() | {"objective": objective, "elbo": elbo}


def evaluation(session: Session, config: Config, test: np.ndarray) -> State:
    """ELBO, log p(x), their errors and the effective sample size of the whole test set, by the estimators, on given noise."""
    shape = (2 * EVALUATION_SAMPLES, len(test), config.model.latent_size)
    draws = generator(0, LADDER_EVALUATION).standard_normal(shape).astype(config.dtype)

    def log_weights(handle: Any, indices: np.ndarray, *, samples: range, seed: int, noise: None) -> np.ndarray:
        given = draws[samples.start : samples.stop, indices]
        return session.log_weights(handle, indices, samples=samples, seed=seed, noise=given)

    scorer: Any = SimpleNamespace(log_weights=log_weights)
    estimates = estimators.estimate(
        scorer,
        session.place(test),
        images=np.arange(len(test), dtype=np.int32),
        samples=EVALUATION_SAMPLES,
        seed=0,
        image_batch=len(test) // 2 - 1,  # the last batch has two images
        sample_block=1,
        report=lambda images: None,
    )
    return {name: np.asarray(value) for name, value in dataclasses.asdict(estimates).items()}
