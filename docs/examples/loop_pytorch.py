"""The mean-field model trained by a plain PyTorch loop, with nothing of this suite, which is measured against it."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_2_PI = math.log(2 * math.pi)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def create(images: np.ndarray, *, hidden: int, latent: int, learning_rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function that trains on the minibatches `rows` [steps, batch] and returns their ELBOs [steps], in nats per image."""
    encoder, decoder = mlp(images.shape[1], hidden, 2 * latent), mlp(latent, hidden, images.shape[1])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=learning_rate, fused=True)
    data = torch.tensor(images)

    def elbo(x: Tensor) -> Tensor:
        loc, s = encoder(x).chunk(2, dim=-1)
        scale, noise = F.softplus(s), torch.randn_like(loc)
        z = loc + scale * noise
        log_q = -0.5 * (noise.square() + LOG_2_PI).sum(-1) - scale.log().sum(-1)
        log_p_z = -0.5 * (z.square() + LOG_2_PI).sum(-1)
        log_p_x = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
        return (log_p_x + log_p_z - log_q).mean()

    def train(rows: np.ndarray) -> np.ndarray:
        elbos = []
        for batch in torch.as_tensor(rows):
            value = elbo(data.index_select(0, batch).float())
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()
            elbos.append(value.detach())
        return torch.stack(elbos).numpy()

    return train
