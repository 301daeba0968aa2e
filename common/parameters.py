"""Every parameter's name, shape and initial value, and the portable state that all backends load and save.

The portable state is a flat dictionary of arrays:

    parameters/NAME                a trained array; NAME and its axes as in `axes`
    ema/NAME                       its moving average, where the config has one
    optimizer/first_moment/NAME    Adam: of the gradient; centered RMSprop: its mean
    optimizer/second_moment/NAME   of the squared gradient
    step                           steps done, int64 []
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from common.config import InitialWeights, Model, Optimizer, Training
from common.errors import UserError
from common.masks import made_masks
from common.noise import generator, initial_values

State = dict[str, np.ndarray]


Kind = Literal["dense", "masked", "convolution"]
Axes = dict[str, int]  # name → size, in the order of the portable state
# (m, k, n): the matrix product [m, k]·[k, n]. (images, rows, columns, inputs, outputs, 0): a 3 × 3 convolution of
# [images, rows, columns, inputs]. The same with 1 at the end: the gradient of its weight.
Product = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A linear layer; `axes` are those of its weight.

    dense          in, out                   x·weight + bias
    masked         in, out                   x·(weight ∘ mask) + bias, the mask of the weight's shape
    convolution    height, width, in, out    the weight moves over the image, with zeros around it: as large an image comes out
    """

    name: str
    kind: Kind
    axes: Axes
    bias: bool = True
    biases: int | None = None  # where they aren't one an output
    mask: np.ndarray | None = None
    image: tuple[int, int] = (1, 1)  # rows and columns, at each of which the layer is applied
    zero: bool = False  # whether the weight starts at 0
    dropout: bool = False  # whether training drops units after the layer and its activation; of a convolution, whole channels

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return tuple(self.axes.values())

    def products(self, rows: int) -> dict[str, Product]:
        """The products of a pass forward and backward over this many rows, a masked weight as a dense one.

        A convolution's gradient of its input is a convolution again, from its outputs to its inputs.
        """
        *_, inputs, outputs = self.shape
        if self.kind == "convolution":
            return {
                "forward": (rows, *self.image, inputs, outputs, 0),
                "weight's gradient": (rows, *self.image, inputs, outputs, 1),
                "input's gradient": (rows, *self.image, outputs, inputs, 0),
            }
        rows *= math.prod(self.image)
        return {
            "forward": (rows, inputs, outputs),
            "weight's gradient": (inputs, rows, outputs),
            "input's gradient": (rows, outputs, inputs),
        }


def multiplications(product: Product) -> int:
    """Each with its addition."""
    if len(product) == 3:
        return math.prod(product)
    *sizes, _ = product
    return 9 * math.prod(sizes)


def numbers(product: Product) -> int:
    """Those that the product must read and write: both factors and the result."""
    if len(product) == 3:
        m, k, n = product
        return m * k + k * n + m * n
    images, rows, columns, inputs, outputs, _ = product
    return images * rows * columns * (inputs + outputs) + 9 * inputs * outputs


def factor_shapes(product: Product) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of its two factors: matrices, or an image and a kernel, or an image and the gradient of what came out."""
    if len(product) == 3:
        m, k, n = product
        return (m, k), (k, n)
    images, rows, columns, inputs, outputs, of_weight = product
    image = (images, rows, columns)
    return (*image, inputs), ((*image, outputs) if of_weight else (3, 3, inputs, outputs))


def dense(name: str, inputs: int, outputs: int, **options: Any) -> Layer:
    return Layer(name, "dense", {"in": inputs, "out": outputs}, **options)


def masked(name: str, mask: np.ndarray, **options: Any) -> Layer:
    inputs, outputs = mask.shape
    return Layer(name, "masked", {"in": inputs, "out": outputs}, mask=mask, **options)


def convolution(name: str, inputs: int, outputs: int, **options: Any) -> Layer:
    return Layer(name, "convolution", {"height": 3, "width": 3, "in": inputs, "out": outputs}, **options)


def mlp(name: str, model: Model, inputs: int, outputs: int) -> list[Layer]:
    hidden = model.hidden_size
    return [
        dense(f"{name}.first", inputs, hidden, dropout=True),
        dense(f"{name}.second", hidden, hidden, dropout=True),
        dense(f"{name}.out", hidden, outputs),
    ]


def residual(name: str, model: Model, resolution: Literal["fine", "coarse"]) -> list[Layer]:
    """The blocks at a resolution; a block whose second convolution is 0 changes nothing."""
    divisor, channels = {"fine": (2, model.channels), "coarse": (4, 2 * model.channels)}[resolution]
    rows, columns = model.image_shape
    image = (rows // divisor, columns // divisor)
    return [
        layer
        for i in range(model.blocks)
        for layer in (
            convolution(f"{name}.{resolution}.{i}.first", channels, channels, image=image, dropout=True),
            convolution(f"{name}.{resolution}.{i}.second", channels, channels, image=image, zero=True),
        )
    ]


def resnet(name: str, model: Model, inputs: int, outputs: int) -> list[Layer]:
    """The encoder halves the image's sides twice, and the decoder doubles them twice: 2 × 2 places are the channels of one."""
    hidden, channels = model.hidden_size, model.channels
    rows, columns = model.image_shape
    half, quarter = (rows // 2, columns // 2), (rows // 4, columns // 4)
    flat = math.prod(quarter) * 2 * channels
    if name == "encoder":
        return [
            dense(f"{name}.first", 4, channels, image=half),
            *residual(name, model, "fine"),
            dense(f"{name}.down", 4 * channels, 2 * channels, image=quarter),
            *residual(name, model, "coarse"),
            dense(f"{name}.hidden", flat, hidden),
            dense(f"{name}.out", hidden, outputs),
        ]
    return [
        dense(f"{name}.first", inputs, hidden),
        dense(f"{name}.hidden", hidden, flat),
        *residual(name, model, "coarse"),
        dense(f"{name}.up", 2 * channels, 4 * channels, image=quarter),
        *residual(name, model, "fine"),
        convolution(f"{name}.out", channels, 4, image=half, biases=outputs),
    ]


# The setting `network` → its layers, from the prefix of their names (encoder or decoder), the model and the numbers of inputs
# and outputs. NAME.first sees the input: the floor leaves out its gradient of the pixels. `decoder.out` has a bias a pixel.
NETWORKS: dict[str, Callable[[str, Model, int, int], list[Layer]]] = {"mlp": mlp, "resnet": resnet}


def autoregressive(name: str, model: Model, depth: int, *, context: bool) -> list[Layer]:
    if not depth:  # masks would be as large as a weight of the latents and hidden units
        return []
    latent, hidden = model.latent_size, model.hidden_size
    masks = made_masks(latent_size=latent, hidden_size=hidden)
    return [
        layer
        for i in range(depth)
        for layer in (
            masked(f"{name}.blocks.{i}.made.first", masks["first"]),
            *([dense(f"{name}.blocks.{i}.made.context", latent, hidden, bias=False)] if context else []),
            masked(f"{name}.blocks.{i}.made.second", masks["second"]),
            masked(f"{name}.blocks.{i}.made.out", masks["out"], zero=True),
        )
    ]


def depths(model: Model) -> dict[str, int]:
    """The number of autoregressive blocks of the posterior's flow and of the prior, where the model has them."""
    flow = {"flow": model.flow_depth} if model.variational == "flow" else {}
    return flow | ({"prior": model.prior_depth} if model.prior == "flow" else {})


def layers(model: Model) -> list[Layer]:
    """The model's linear layers, in the order in which a forward pass meets them.

    Raises `UserError` for a network that isn't in NETWORKS.
    """
    if model.network not in NETWORKS:
        raise UserError(f"There is no network '{model.network}' in this checkout; use the code that the model was made with.")
    network, depth = NETWORKS[model.network], depths(model)
    encoder = network("encoder", model, model.pixels, (3 if "flow" in depth else 2) * model.latent_size)
    flow = autoregressive("flow", model, depth.get("flow", 0), context=True)
    prior = autoregressive("prior", model, depth.get("prior", 0), context=False)
    return encoder + flow + prior + network("decoder", model, model.latent_size, model.pixels)


def refuse_unlike(names: Iterable[str], model: Model) -> None:
    """Raises `ValueError` where a backend's network has parameters of other names than `shapes` of the model."""
    if odd := set(names) ^ shapes(model).keys():
        raise ValueError(f"The backend's network and common/parameters.py differ in the parameters {', '.join(sorted(odd))}.")


def droppable(model: Model) -> dict[str, int]:
    """Layer → number of its units, or channels, that dropout can drop, in order; nothing where `dropout` is 0."""
    return {layer.name: layer.axes["out"] for layer in layers(model) if layer.dropout and model.dropout}


def noise_size(model: Model) -> int:
    """The size of the last axis of training noise: z's draws, then those of `droppable`, in order.

    The encoder, which is evaluated once an image, reads its draws from the first sample.
    """
    return model.latent_size + sum(droppable(model).values())


def decays(name: str, optimizer: Optimizer) -> bool:
    """Whether weight decay shrinks the parameter of this name."""
    return optimizer.decayed == "all" or name.endswith(".weight")


def axes(model: Model) -> dict[str, Axes]:
    """Name → axes of every parameter."""
    result: dict[str, Axes] = {}
    for layer in layers(model):
        result[f"{layer.name}.weight"] = layer.axes
        if layer.bias:
            result[f"{layer.name}.bias"] = {"out": layer.biases or layer.axes["out"]}
    for name, depth in depths(model).items():
        for i in range(depth):
            result[f"{name}.blocks.{i}.gate_bias"] = {"out": model.latent_size}
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
    is 2. MADE's output weights are 0, so that a block starts as z ← σ(2)·z exactly; a residual block's last weights are too.
    """
    values = {name: np.zeros(shape) for name, shape in shapes(model).items()}
    for layer in layers(model):
        if not layer.zero:
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
