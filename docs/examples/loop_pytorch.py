"""The mean-field model trained by a plain PyTorch loop, with nothing of this suite, which is measured against it."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_2_PI = math.log(2 * math.pi)
torch._dynamo.config.trace_autograd_ops = True  # else the ELBO is one program and its gradient another


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def create(images: np.ndarray, *, hidden: int, latent: int, learning_rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function that trains on the minibatches `rows` [steps, batch] and returns their ELBOs [steps], in nats per image."""
    encoder, decoder = mlp(images.shape[1], hidden, 2 * latent), mlp(latent, hidden, images.shape[1])
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    data = torch.tensor(images)

    def elbo(x: Tensor, noise: Tensor) -> Tensor:
        loc, s = encoder(x).chunk(2, dim=-1)
        scale = F.softplus(s)
        z = loc + scale * noise
        log_q = -0.5 * (noise.square() + LOG_2_PI).sum(-1) - scale.log().sum(-1)
        log_p_z = -0.5 * (z.square() + LOG_2_PI).sum(-1)
        log_p_x = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
        return (log_p_x + log_p_z - log_q).mean()

    @torch.compile(dynamic=False, fullgraph=True)
    def value_and_gradients(x: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = elbo(x, noise)
        return value.detach(), torch.autograd.grad(-value, parameters)

    def train(rows: np.ndarray) -> np.ndarray:
        elbos = []
        for batch in torch.as_tensor(rows):
            x = data.index_select(0, batch).float()
            value, gradients = value_and_gradients(x, torch.randn(len(x), latent))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            elbos.append(value)
        return torch.stack(elbos).numpy()

    return train
