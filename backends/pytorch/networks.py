"""The encoder's and the decoder's network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.shapes import checked


class MLP(nn.Module):
    """inputs → hidden → hidden → outputs, ReLU between; computes in dtype `factors` and returns x's dtype."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, factors: torch.dtype):
        super().__init__()
        self.factors = factors
        self.first = nn.Linear(inputs, hidden, dtype=factors)
        self.second = nn.Linear(hidden, hidden, dtype=factors)
        self.out = nn.Linear(hidden, outputs, dtype=factors)

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        hidden = F.relu(self.first(x.to(self.factors)))
        hidden = F.relu(self.second(hidden))
        return self.out(hidden).to(x.dtype)
