"""The encoder's and the decoder's network."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.shapes import checked


class MLP(nn.Module):
    """inputs → hidden → hidden → outputs, ReLU between."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, outputs)

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x))
        return self.out(x)
