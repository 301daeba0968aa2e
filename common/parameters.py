"""Every parameter's name, shape and initial value, and the portable state that all backends load and save.

The portable state is a flat dictionary of arrays:

    parameters/NAME                a trained array; NAME and its axes as in `axes`
    ema/NAME                       its moving average, where the config has one
    optimizer/first_moment/NAME    Adam: of the gradient; centered RMSprop: its mean
    optimizer/second_moment/NAME   of the squared gradient
    step                           steps done, int64 []
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.config import InitialWeights, Model, Optimizer, Training
from common.errors import UserError
from common.masks import made_masks
from common.noise import generator, initial_values

State = dict[str, np.ndarray]


Kind = Literal["dense", "masked", "convolution"]
Axes = dict[str, int]  # name → size, in the order of the portable state
Product = tuple[int, int, int]  # (m, k, n) of the matrix product [m, k]·[k, n]


@dataclass(frozen=True)
class Layer:
    """A linear layer; `axes` are those of its weight.

    dense          in, out                   x·weight + bias
    masked         in, out                   x·(weight ∘ mask) + bias, the mask of the weight's shape
    convolution    height, width, in, out    the weight moves over the image
    """

    name: str
    kind: Kind
    axes: Axes
    bias: bool = True
    mask: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return tuple(self.axes.values())

    def products(self, rows: int) -> dict[str, Product]:
        """The matrix products of a pass forward and backward over this many rows, a masked weight as a dense one.

        Raises `NotImplementedError` for a convolution, which isn't one matrix product.
        """
        if self.kind == "convolution":
            raise NotImplementedError(f"{self.name} is a convolution: the floor of a step has no entry for it yet.")
        inputs, outputs = self.shape
        return {
            "forward": (rows, inputs, outputs),
            "weight's gradient": (inputs, rows, outputs),
            "input's gradient": (rows, outputs, inputs),
        }


def dense(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Layer:
    return Layer(name, "dense", {"in": inputs, "out": outputs}, bias=bias)


def masked(name: str, mask: np.ndarray) -> Layer:
    inputs, outputs = mask.shape
    return Layer(name, "masked", {"in": inputs, "out": outputs}, mask=mask)


def mlp(name: str, inputs: int, hidden: int, outputs: int) -> list[Layer]:
    return [
        dense(f"{name}.first", inputs, hidden),
        dense(f"{name}.second", hidden, hidden),
        dense(f"{name}.out", hidden, outputs),
    ]


# The setting `network` → its layers, from the prefix of their names (encoder or decoder) and three sizes. NAME.first sees the
# input: the floor leaves out its gradient of the pixels.
NETWORKS: dict[str, Callable[[str, int, int, int], list[Layer]]] = {"mlp": mlp}


def layers(model: Model) -> list[Layer]:
    """The model's linear layers, in the order in which a forward pass meets them.

    Raises `UserError` for a network that isn't in NETWORKS.
    """
    if model.network not in NETWORKS:
        raise UserError(f"There is no network '{model.network}' in this checkout; use the code that the model was made with.")
    pixels, hidden, latent = model.pixels, model.hidden_size, model.latent_size
    flow = model.variational == "flow"
    network = NETWORKS[model.network]
    encoder = network("encoder", pixels, hidden, (3 if flow else 2) * latent)
    masks = made_masks(latent_size=latent, hidden_size=hidden)
    blocks = [
        layer
        for i in range(model.flow_depth if flow else 0)
        for layer in (
            masked(f"flow.blocks.{i}.made.first", masks["first"]),
            dense(f"flow.blocks.{i}.made.context", latent, hidden, bias=False),
            masked(f"flow.blocks.{i}.made.second", masks["second"]),
            masked(f"flow.blocks.{i}.made.out", masks["out"]),
        )
    ]
    return encoder + blocks + network("decoder", latent, hidden, pixels)


def axes(model: Model) -> dict[str, Axes]:
    """Name → axes of every parameter."""
    result: dict[str, Axes] = {}
    for layer in layers(model):
        result[f"{layer.name}.weight"] = layer.axes
        if layer.bias:
            result[f"{layer.name}.bias"] = {"out": layer.axes["out"]}
    if model.variational == "flow":
        for i in range(model.flow_depth):
            result[f"flow.blocks.{i}.gate_bias"] = {"out": model.latent_size}
    return result


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name → shape of every parameter."""
    return {name: tuple(sizes.values()) for name, sizes in axes(model).items()}


def count(model: Model) -> int:
    """The number of trained values, without masked weights, which stay 0."""
    masked = sum(int((layer.mask == 0).sum()) for layer in layers(model) if layer.mask is not None)
    return sum(int(np.prod(shape)) for shape in shapes(model).values()) - masked


def initial_weight(layer: Layer, *, distribution: InitialWeights, draws: np.random.Generator) -> np.ndarray:
    """One layer's weight, float64, of the layer's shape. Masked weights are 0.

    fan_in: the number of unmasked weights that lead to an output; fan_out: of those that lead from an input.
    lecun-normal: N(0, 1/fan_in). glorot: U(±√(6/(fan_in + fan_out))) (Glorot and Bengio 2010, eq. 16).
    torch-linear: U(±1/√fan_in), as `torch.nn.Linear` starts.
    """
    mask = np.ones(layer.shape) if layer.mask is None else layer.mask
    to_an_output = tuple(i for i, axis in enumerate(layer.axes) if axis != "out")
    from_an_input = tuple(i for i, axis in enumerate(layer.axes) if axis != "in")
    fan_in = np.maximum(mask.sum(axis=to_an_output, keepdims=True), 1)
    fan_out = np.maximum(mask.sum(axis=from_an_input, keepdims=True), 1)
    if distribution == "lecun-normal":
        return mask * draws.standard_normal(layer.shape) / np.sqrt(fan_in)
    if distribution == "glorot":
        return mask * draws.uniform(-1, 1, layer.shape) * np.sqrt(6 / (fan_in + fan_out))
    return mask * draws.uniform(-1, 1, layer.shape) / np.sqrt(fan_in)


def initial_parameters(model: Model, *, training: Training, pixel_log_odds: np.ndarray) -> State:
    """Name → initial value, float64, a function of (seed, name).

    Biases are 0, with two exceptions: with `data_bias` the decoder's output bias is the data's log-odds [pixels], and gate_bias
    is 2. MADE's output weights are 0, so that a block starts as z ← σ(2)·z exactly.
    """
    values = {name: np.zeros(shape) for name, shape in shapes(model).items()}
    for layer in layers(model):
        if not layer.name.endswith("made.out"):
            name = f"{layer.name}.weight"
            draws = generator(training.seed, initial_values(name))
            values[name] = initial_weight(layer, distribution=training.initial_weights, draws=draws)
    if training.data_bias:
        values["decoder.out.bias"] = np.array(pixel_log_odds, dtype=np.float64)
    for name in values:
        if name.endswith("gate_bias"):
            values[name] = np.full(values[name].shape, 2.0)
    return values


def fresh_state(parameters: State, *, optimizer: Optimizer, training: Training, dtype: str) -> State:
    """The portable state at step 0 around these parameters (name → value)."""
    accumulator = optimizer.rmsprop_initial_accumulator if optimizer.optimizer == "rmsprop" else 0.0
    state: State = {"step": np.array(0, dtype=np.int64)}
    for name, value in parameters.items():
        state[f"parameters/{name}"] = value.astype(dtype)
        if training.ema_decay:
            state[f"ema/{name}"] = value.astype(dtype)
        if optimizer.optimizer == "adam" or optimizer.rmsprop_centered:
            state[f"optimizer/first_moment/{name}"] = np.zeros(value.shape, dtype)
        state[f"optimizer/second_moment/{name}"] = np.full(value.shape, accumulator, dtype)
    return state


def group(state: State, prefix: str) -> State:
    """The arrays under `prefix/`, without it."""
    return {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}


def masks_applied(parameters: State, model: Model) -> State:
    """The parameters with each masked weight set to 0: with these, plain linear layers compute what masked ones do."""
    masks = {f"{layer.name}.weight": layer.mask for layer in layers(model) if layer.mask is not None}
    return {name: value * masks[name].astype(value.dtype) if name in masks else value for name, value in parameters.items()}


def judged(state: State) -> State:
    """The parameters of validation, selection, test and export: the moving average where there is one."""
    return group(state, "ema") or group(state, "parameters")
