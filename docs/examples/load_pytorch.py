"""Weights from `python -m benchmarks export CHECKPOINT --to pytorch`, in plain PyTorch. Copy it: nothing of vaebench is used.

    python load_pytorch.py model.safetensors inputs.npz outputs.npz

inputs:  images [batch, pixels] of 0 and 1; noise [batch, latent], standard normal
outputs: loc, scale [batch, latent]; z ~ q(z|x) [batch, latent]; log_q [batch]; probabilities p(x = 1|z) [batch, pixels]
"""

import math
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


class MLP(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.out(F.relu(self.second(F.relu(self.first(x)))))


class MADE(nn.Module):
    """Autoregressive without a mask: the masked weights are 0 in the file."""

    def __init__(self, latent, hidden):
        super().__init__()
        self.first = nn.Linear(latent, hidden)
        self.context = nn.Linear(latent, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 2 * latent)

    def forward(self, z, context):
        hidden = F.relu(self.first(z) + self.context(context))
        return self.out(F.relu(self.second(hidden))).chunk(2, dim=-1)


class Block(nn.Module):
    def __init__(self, latent, hidden):
        super().__init__()
        self.made = MADE(latent, hidden)
        self.gate_bias = nn.Parameter(torch.zeros(latent))

    def forward(self, z, context):
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = torch.sigmoid(s)
        return gate * z + (1 - gate) * m, F.logsigmoid(s).sum(-1)


class Flow(nn.Module):
    def __init__(self, latent, hidden, depth):
        super().__init__()
        self.blocks = nn.ModuleList(Block(latent, hidden) for _ in range(depth))

    def forward(self, z, context):
        log_det = 0
        for i, block in enumerate(self.blocks):
            z, block_log_det = block(z if i == 0 else z.flip(-1), context)  # reversed between two blocks
            log_det = log_det + block_log_det
        return z, log_det


class VAE(nn.Module):
    """A mean-field model has depth 0."""

    def __init__(self, pixels, latent, hidden, depth):
        super().__init__()
        self.encoder = MLP(pixels, hidden, (3 if depth else 2) * latent)
        self.flow = Flow(latent, hidden, depth) if depth else None
        self.decoder = MLP(latent, hidden, pixels)

    def encode(self, x):
        """loc and scale of q's Gaussian base and, for a flow, the context."""
        loc, s, *context = self.encoder(x).chunk(3 if self.flow else 2, dim=-1)
        return loc, F.softplus(s, threshold=40), *context

    def sample(self, x, noise):
        """z ~ q(z|x) and log q(z|x)."""
        loc, scale, *context = self.encode(x)
        z = loc + scale * noise
        log_q = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1) - scale.log().sum(-1)
        if self.flow:
            z, log_det = self.flow(z, *context)
            log_q = log_q - log_det
        return z, log_q

    def decode(self, z):
        """p(x = 1|z)."""
        return torch.sigmoid(self.decoder(z))


def load(path):
    weights = load_file(path)
    hidden, pixels = weights["encoder.first.weight"].shape
    latent = weights["decoder.first.weight"].shape[1]
    depth = sum(name.endswith("gate_bias") for name in weights)
    vae = VAE(pixels, latent, hidden, depth).to(weights["encoder.first.weight"].dtype)
    vae.load_state_dict(weights)
    return vae


if __name__ == "__main__":
    vae = load(sys.argv[1])
    dtype = vae.decoder.out.bias.dtype
    with np.load(sys.argv[2]) as inputs, torch.no_grad():
        images, noise = (torch.tensor(inputs[name]).to(dtype) for name in ("images", "noise"))
        loc, scale, *_ = vae.encode(images)
        z, log_q = vae.sample(images, noise)
        outputs = {"loc": loc, "scale": scale, "z": z, "log_q": log_q, "probabilities": vae.decode(z)}
    np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
