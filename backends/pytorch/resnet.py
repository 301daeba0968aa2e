"""The convolutional residual network: its blocks begin with the activation (He et al. 2016b), and nothing is normalized.

An image is [images, rows, columns, channels] throughout: in memory that is PyTorch's `channels_last`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.networks import Linear
from backends.pytorch.shapes import Masks, checked
from common.config import Model


@checked
def to_channels(x: Float[Tensor, "images rows columns channels"]) -> Float[Tensor, "images half_rows half_columns more"]:
    """Half the sides: the channels of a place are those of its 2 × 2 places, row by row."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows // 2, columns // 2, 4 * channels)


@checked
def to_space(x: Float[Tensor, "images rows columns channels"]) -> Float[Tensor, "images twice_rows twice_columns fewer"]:
    """The inverse of `to_channels`."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows, columns, 2, 2, channels // 4).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * rows, 2 * columns, channels // 4)


@checked
def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x·σ(x) (Elfwing et al. 2018), of a bfloat16 x computed in float32 and rounded once."""
    return F.silu(x)


@checked
def convolved(
    x: Float[Tensor, "images rows columns inputs"], kernel: Float[Tensor, "outputs inputs 3 3"]
) -> Float[Tensor, "images rows columns outputs"]:
    """Σ over i, j, a of x[n, r + i − 1, c + j − 1, a] · kernel[b, a, i, j], [n, r, c, b], with zeros around the image."""
    return F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1)


class Convolution(nn.Module):
    """3 × 3. x, weight and bias are in `factors`, and so are product and sum."""

    def __init__(self, inputs: int, outputs: int, *, biases: int, factors: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3, dtype=factors))
        self.bias = nn.Parameter(torch.empty(biases, dtype=factors))

    @checked
    def product(self, x: Float[Tensor, "images rows columns inputs"]) -> Float[Tensor, "images rows columns outputs"]:
        return convolved(x, self.weight)

    @checked
    def forward(self, x: Float[Tensor, "images rows columns inputs"]) -> Float[Tensor, "images rows columns outputs"]:
        return self.plus_bias(self.product(x))

    def plus_bias(self, product: Tensor) -> Tensor:
        """Autograd sums the bias's gradient, over images, in float32 at least, and rounds it once."""
        return product + self.bias


class Residual(nn.Module):
    """h + second(dropout(silu(first(silu(h))))); dropout drops channels (Tompson et al. 2015)."""

    def __init__(self, channels: int, *, factors: torch.dtype):
        super().__init__()
        self.first = Convolution(channels, channels, biases=channels, factors=factors)
        self.second = Convolution(channels, channels, biases=channels, factors=factors)

    @checked
    def forward(
        self, h: Float[Tensor, "images rows columns channels"], channel_mask: Float[Tensor, "*images channels"] | None
    ) -> Float[Tensor, "images rows columns channels"]:
        hidden = silu(self.first(silu(h)))
        if channel_mask is not None:
            hidden = hidden * channel_mask.reshape(-1, 1, 1, channel_mask.shape[-1]).to(hidden.dtype)
        return h + self.second(hidden)


class Encoder(nn.Module):
    """2x − 1 → half the sides → a quarter → hidden → outputs; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, factors: torch.dtype):
        super().__init__()
        self.factors = factors
        self.image, channels = model.image_shape, model.channels
        self.first = Linear(4, channels, use_bias=True, factors=factors)
        self.fine = nn.ModuleList(Residual(channels, factors=factors) for _ in range(model.blocks))
        self.down = Linear(4 * channels, 2 * channels, use_bias=True, factors=factors)
        self.coarse = nn.ModuleList(Residual(2 * channels, factors=factors) for _ in range(model.blocks))
        self.hidden = Linear(inputs // 16 * 2 * channels, model.hidden_size, use_bias=True, factors=factors)
        self.out = Linear(model.hidden_size, outputs, use_bias=True, factors=factors)

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"], masks: Masks) -> Float[Tensor, "*rows outputs"]:
        h = self.first(to_channels((2 * x - 1).to(self.factors).reshape(-1, *self.image, 1)))
        for i, block in enumerate(self.fine):
            h = block(h, masks.get(f"fine.{i}.first"))
        h = self.down(to_channels(h))
        for i, block in enumerate(self.coarse):
            h = block(h, masks.get(f"coarse.{i}.first"))
        h = silu(h).reshape(*x.shape[:-1], -1)
        h = silu(self.hidden(h))
        return self.out(h).to(x.dtype)


class Decoder(nn.Module):
    """latents → hidden → a quarter of the sides → half → pixels; computes in dtype `factors` and returns z's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, factors: torch.dtype):
        super().__init__()
        self.factors = factors
        (rows, columns), channels = model.image_shape, model.channels
        self.image = (rows // 4, columns // 4, 2 * channels)
        self.first = Linear(inputs, model.hidden_size, use_bias=True, factors=factors)
        self.hidden = Linear(model.hidden_size, math.prod(self.image), use_bias=True, factors=factors)
        self.coarse = nn.ModuleList(Residual(2 * channels, factors=factors) for _ in range(model.blocks))
        self.up = Linear(2 * channels, 4 * channels, use_bias=True, factors=factors)
        self.fine = nn.ModuleList(Residual(channels, factors=factors) for _ in range(model.blocks))
        self.out = Convolution(channels, 4, biases=outputs, factors=factors)

    @checked
    def forward(self, z: Float[Tensor, "*rows inputs"], masks: Masks) -> Float[Tensor, "*rows outputs"]:
        h = silu(self.first(z.to(self.factors)))
        h = self.hidden(h).reshape(-1, *self.image)
        for i, block in enumerate(self.coarse):
            h = block(h, masks.get(f"coarse.{i}.first"))
        h = to_space(self.up(h))
        for i, block in enumerate(self.fine):
            h = block(h, masks.get(f"fine.{i}.first"))
        # A bias for each pixel: added once the channels have become pixels.
        h = to_space(self.out.product(silu(h))).reshape(*z.shape[:-1], -1)
        return self.out.plus_bias(h).to(z.dtype)
