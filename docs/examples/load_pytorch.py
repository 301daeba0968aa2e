"""Weights from `python -m benchmarks export CHECKPOINT --to pytorch`, in plain PyTorch. Copy it: nothing of vaebench is used.

    python load_pytorch.py model.safetensors inputs.npz outputs.npz [ROWS COLUMNS]

inputs:  images [batch, pixels] of 0 and 1; noise [batch, latent], standard normal
outputs: loc, scale, z ~ q(z|x) [batch, latent]; log_q, log_p_z [batch]; probabilities p(x = 1|z) [batch, pixels]

ROWS and COLUMNS are an image's, where the network is `resnet` and the image isn't a square.
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


def halved(x):
    """[images, rows, columns, channels]: the channels of a place are those of its 2 × 2 places."""
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows // 2, columns // 2, 4 * channels)


def doubled(x):
    n, rows, columns, channels = x.shape
    x = x.reshape(n, rows, columns, 2, 2, channels // 4).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * rows, 2 * columns, channels // 4)


class Convolution(nn.Module):
    def __init__(self, inputs, outputs, biases):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(biases))

    def product(self, x):
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight, padding=1).permute(0, 2, 3, 1)

    def forward(self, x):
        return self.product(x) + self.bias


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = Convolution(channels, channels, channels)
        self.second = Convolution(channels, channels, channels)

    def forward(self, h):
        return h + self.second(F.silu(self.first(F.silu(h))))


class Encoder(nn.Module):
    def __init__(self, image_shape, channels, blocks, hidden, outputs):
        super().__init__()
        self.image_shape = image_shape
        self.first = nn.Linear(4, channels)
        self.fine = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.down = nn.Linear(4 * channels, 2 * channels)
        self.coarse = nn.Sequential(*(Residual(2 * channels) for _ in range(blocks)))
        self.hidden = nn.Linear(math.prod(image_shape) // 16 * 2 * channels, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x):
        h = self.fine(self.first(halved((2 * x - 1).reshape(-1, *self.image_shape, 1))))
        h = F.silu(self.coarse(self.down(halved(h)))).reshape(len(x), -1)
        return self.out(F.silu(self.hidden(h)))


class Decoder(nn.Module):
    def __init__(self, image_shape, channels, blocks, hidden, latent):
        super().__init__()
        self.map = (image_shape[0] // 4, image_shape[1] // 4, 2 * channels)
        self.first = nn.Linear(latent, hidden)
        self.hidden = nn.Linear(hidden, math.prod(self.map))
        self.coarse = nn.Sequential(*(Residual(2 * channels) for _ in range(blocks)))
        self.up = nn.Linear(2 * channels, 4 * channels)
        self.fine = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.out = Convolution(channels, 4, math.prod(image_shape))

    def forward(self, z):
        h = self.coarse(self.hidden(F.silu(self.first(z))).reshape(-1, *self.map))
        h = F.silu(self.fine(doubled(self.up(h))))
        return doubled(self.out.product(h)).reshape(len(z), -1) + self.out.bias


class MADE(nn.Module):
    """Autoregressive without a mask: the masked weights are 0 in the file."""

    def __init__(self, latent, hidden, has_context):
        super().__init__()
        self.first = nn.Linear(latent, hidden)
        self.context = nn.Linear(latent, hidden, bias=False) if has_context else None
        self.second = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 2 * latent)

    def forward(self, z, context):
        hidden = F.relu(self.first(z) + (self.context(context) if self.context else 0))
        return self.out(F.relu(self.second(hidden))).chunk(2, dim=-1)


class Block(nn.Module):
    def __init__(self, latent, hidden, has_context):
        super().__init__()
        self.made = MADE(latent, hidden, has_context)
        self.gate_bias = nn.Parameter(torch.zeros(latent))

    def forward(self, z, context):
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = torch.sigmoid(s)
        return gate * z + (1 - gate) * m, F.logsigmoid(s).sum(-1)


class Flow(nn.Module):
    def __init__(self, latent, hidden, depth, has_context):
        super().__init__()
        self.blocks = nn.ModuleList(Block(latent, hidden, has_context) for _ in range(depth))

    def forward(self, z, context):
        log_det = 0
        for i, block in enumerate(self.blocks):
            z, block_log_det = block(z if i == 0 else z.flip(-1), context)  # reversed between two blocks
            log_det = log_det + block_log_det
        return z, log_det


class VAE(nn.Module):
    """A mean-field model has depth 0, and a standard prior prior_depth 0; an MLP has no residual blocks."""

    def __init__(self, image_shape, latent, hidden, depth, prior_depth, channels, blocks):
        super().__init__()
        pixels, outputs = math.prod(image_shape), (3 if depth else 2) * latent
        convolutional = (image_shape, channels, blocks, hidden)
        self.encoder = Encoder(*convolutional, outputs) if blocks else MLP(pixels, hidden, outputs)
        self.flow = Flow(latent, hidden, depth, True) if depth else None
        self.prior = Flow(latent, hidden, prior_depth, False) if prior_depth else None
        self.decoder = Decoder(*convolutional, latent) if blocks else MLP(latent, hidden, pixels)

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

    def log_prior(self, z):
        """log p(z)."""
        u, log_det = self.prior(z, None) if self.prior else (z, 0)
        return -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1) + log_det

    def decode(self, z):
        """p(x = 1|z)."""
        return torch.sigmoid(self.decoder(z))


def load(path, *image_shape):
    weights = load_file(path)
    hidden, latent = weights["decoder.first.weight"].shape
    pixels = len(weights["decoder.out.bias"])
    square = math.isqrt(pixels) ** 2 == pixels
    shape = image_shape or ((math.isqrt(pixels),) * 2 if square else (1, pixels))

    def count(start, end):
        return sum(name.startswith(start) and name.endswith(end) for name in weights)

    blocks, channels = count("encoder.fine", "first.bias"), len(weights["encoder.first.bias"])
    depths = count("flow", "gate_bias"), count("prior", "gate_bias")
    vae = VAE(shape, latent, hidden, *depths, channels, blocks).to(weights["encoder.first.weight"].dtype)
    vae.load_state_dict(weights)
    return vae


if __name__ == "__main__":
    vae = load(sys.argv[1], *map(int, sys.argv[4:]))
    dtype = vae.decoder.out.bias.dtype
    with np.load(sys.argv[2]) as inputs, torch.no_grad():
        images, noise = (torch.tensor(inputs[name]).to(dtype) for name in ("images", "noise"))
        loc, scale, *_ = vae.encode(images)
        z, log_q = vae.sample(images, noise)
        outputs = {"loc": loc, "scale": scale, "z": z, "log_q": log_q, "log_p_z": vae.log_prior(z)}
        outputs["probabilities"] = vae.decode(z)
    np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
