"""The encoder's and the decoder's network, and its layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.dense import linear
from backends.pytorch.shapes import Masks, checked
from common.config import Model


class Linear(nn.Linear):
    """x·weight + bias, all in `factors`."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, factors: torch.dtype):
        super().__init__(inputs, outputs, bias=use_bias, dtype=factors)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@checked
def dropped(x: Float[Tensor, "*rows units"], masks: Masks, layer: str) -> Float[Tensor, "*rows units"]:
    """x times the layer's mask; x itself where no mask is given, as in evaluation."""
    return x * masks[layer].to(x.dtype) if layer in masks else x


class MLP(nn.Module):
    """inputs → hidden → hidden → outputs, ReLU between; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, model: Model, inputs: int, outputs: int, *, factors: torch.dtype):
        super().__init__()
        hidden = model.hidden_size
        self.factors = factors
        self.first = Linear(inputs, hidden, use_bias=True, factors=factors)
        self.second = Linear(hidden, hidden, use_bias=True, factors=factors)
        self.out = Linear(hidden, outputs, use_bias=True, factors=factors)

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"], masks: Masks) -> Float[Tensor, "*rows outputs"]:
        hidden = dropped(F.relu(self.first(x.to(self.factors))), masks, "first")
        hidden = dropped(F.relu(self.second(hidden)), masks, "second")
        return self.out(hidden).to(x.dtype)
