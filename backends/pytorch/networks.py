"""The encoder's and the decoder's network, and its layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.shapes import checked


class Linear(nn.Linear):
    """x·weight + bias, both rounded to the dtype of x, which is the result's too."""

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class MLP(nn.Module):
    """inputs → hidden → hidden → outputs, ReLU between; `factors` is the dtype inside, that of x the result's."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, factors: torch.dtype):
        super().__init__()
        self.factors = factors
        self.first = Linear(inputs, hidden)
        self.second = Linear(hidden, hidden)
        self.out = Linear(hidden, outputs)

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        hidden = F.relu(self.first(x.to(self.factors)))
        hidden = F.relu(self.second(hidden))
        return self.out(hidden).to(x.dtype)
