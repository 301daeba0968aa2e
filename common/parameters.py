"""Every parameter's name, shape and initial value, and the portable state that all backends load and save.

The portable state is a flat dictionary of arrays:

    parameters/NAME                what is trained; NAME as in `layers`, weights [in, out]
    ema/NAME                       their moving average, where there is one
    optimizer/first_moment/NAME    Adam: of the gradient; centered RMSprop: its mean
    optimizer/second_moment/NAME   of the squared gradient
    step                           steps done, int64 []
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.config import InitialWeights, Model, Optimizer, Training
from common.masks import made_masks
from common.noise import generator

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A linear layer, x·weight + bias, weight [inputs, outputs]; `mask` of the same shape for a masked one."""

    name: str
    inputs: int
    outputs: int
    bias: bool = True
    mask: np.ndarray | None = None


def layers(model: Model) -> list[Layer]:
    """The model's linear layers, in the order in which a forward pass meets them."""
    pixels, hidden, latent = model.pixels, model.hidden_size, model.latent_size
    flow = model.variational == "flow"
    encoder = [
        Layer("encoder.first", pixels, hidden),
        Layer("encoder.second", hidden, hidden),
        Layer("encoder.out", hidden, (3 if flow else 2) * latent),
    ]
    masks = made_masks(latent_size=latent, hidden_size=hidden)
    blocks = [
        layer
        for i in range(model.flow_depth if flow else 0)
        for layer in (
            Layer(f"flow.blocks.{i}.made.first", latent, hidden, mask=masks["first"]),
            Layer(f"flow.blocks.{i}.made.context", latent, hidden, bias=False),
            Layer(f"flow.blocks.{i}.made.second", hidden, hidden, mask=masks["second"]),
            Layer(f"flow.blocks.{i}.made.out", hidden, 2 * latent, mask=masks["out"]),
        )
    ]
    decoder = [
        Layer("decoder.first", latent, hidden),
        Layer("decoder.second", hidden, hidden),
        Layer("decoder.out", hidden, pixels),
    ]
    return encoder + blocks + decoder


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name → shape of every parameter."""
    result: dict[str, tuple[int, ...]] = {}
    for layer in layers(model):
        result[f"{layer.name}.weight"] = (layer.inputs, layer.outputs)
        if layer.bias:
            result[f"{layer.name}.bias"] = (layer.outputs,)
    if model.variational == "flow":
        for i in range(model.flow_depth):
            result[f"flow.blocks.{i}.gate_bias"] = (model.latent_size,)
    return result


def count(model: Model) -> int:
    """Number of trained values that can differ from zero: masked weights do not count."""
    masked = sum(int((layer.mask == 0).sum()) for layer in layers(model) if layer.mask is not None)
    return sum(int(np.prod(shape)) for shape in shapes(model).values()) - masked


def initial_weight(layer: Layer, *, distribution: InitialWeights, draws: np.random.Generator) -> np.ndarray:
    """One layer's weights, float64 [in, out]; fan_in is the number of unmasked inputs of each output.

    lecun-normal: N(0, 1/fan_in). glorot: U(±√(6/(fan_in + fan_out))) (Glorot and Bengio 2010, eq. 16).
    torch-linear: U(±1/√fan_in), as `torch.nn.Linear` starts. Masked weights are 0.
    """
    shape = (layer.inputs, layer.outputs)
    mask = np.ones(shape) if layer.mask is None else layer.mask
    fan_in = np.maximum(mask.sum(axis=0, keepdims=True), 1)
    fan_out = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    if distribution == "lecun-normal":
        return mask * draws.standard_normal(shape) / np.sqrt(fan_in)
    if distribution == "glorot":
        return mask * draws.uniform(-1, 1, shape) * np.sqrt(6 / (fan_in + fan_out))
    return mask * draws.uniform(-1, 1, shape) / np.sqrt(fan_in)


def initial_parameters(model: Model, *, training: Training, pixel_log_odds: np.ndarray) -> State:
    """Name → initial value, float64, a function of (seed, name). Biases are 0 but for:

    the decoder's output bias, the data's log-odds [pixels] (`data_bias`); gate_bias, 2. MADE's output weights are 0, so
    that a block starts as z ← σ(2)·z exactly.
    """
    values = {name: np.zeros(shape) for name, shape in shapes(model).items()}
    for layer in layers(model):
        if not layer.name.endswith("made.out"):
            name = f"{layer.name}.weight"
            draws = generator(training.seed, f"initial {name}")
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
    """The parameters with each masked weight set to 0: plain linear layers of these are the model's masked ones."""
    masks = {f"{layer.name}.weight": layer.mask for layer in layers(model) if layer.mask is not None}
    return {name: value * masks[name].astype(value.dtype) if name in masks else value for name, value in parameters.items()}


def judged(state: State) -> State:
    """The parameters that validation, selection, test and export use: the moving average where there is one."""
    return group(state, "ema") or group(state, "parameters")
