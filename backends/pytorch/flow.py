"""Autoregressive flows: the posterior's (Kingma et al. 2016, eq. 10-14), and the prior's, without a context."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.dense import linear
from backends.pytorch.networks import Linear
from backends.pytorch.shapes import Quantities, checked
from common.masks import made_masks


class MaskedLinear(Linear):
    """x·(weight ∘ mask) + bias, all in `factors`."""

    mask: Tensor

    def __init__(self, mask: np.ndarray, *, factors: torch.dtype):
        inputs, outputs = mask.shape
        super().__init__(inputs, outputs, use_bias=True, factors=factors)
        self.register_buffer("mask", torch.tensor(mask.T, dtype=self.weight.dtype).contiguous(), persistent=False)

    @checked
    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        return linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """(m, s) of each latent from the latents before it and, where it `has_context`, the context (Germain et al. 2015)."""

    def __init__(self, latent: int, hidden: int, *, has_context: bool, factors: torch.dtype):
        super().__init__()
        self.factors = factors
        masks = made_masks(latent_size=latent, hidden_size=hidden)
        self.first = MaskedLinear(masks["first"], factors=factors)
        self.context = Linear(latent, hidden, use_bias=False, factors=factors) if has_context else None
        self.second = MaskedLinear(masks["second"], factors=factors)
        self.out = MaskedLinear(masks["out"], factors=factors)

    @checked
    def forward(
        self, z: Float[Tensor, "samples batch latent"], context: Float[Tensor, "batch latent"] | None
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch latent"]]:
        if (self.context is None) != (context is None):
            raise ValueError("A MADE takes a context exactly where it was made for one.")
        hidden = self.first(z.to(self.factors))
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context.to(self.factors))
        hidden = F.relu(self.second(F.relu(hidden)))
        m, s = self.out(hidden).to(z.dtype).chunk(2, dim=-1)
        return m, s


class Block(nn.Module):
    """z ← gate·z + (1 − gate)·m with gate = σ(s + gate_bias); its log|det ∂z'/∂z| is Σ log gate."""

    def __init__(self, latent: int, hidden: int, *, has_context: bool, dtype: torch.dtype, factors: torch.dtype):
        super().__init__()
        self.made = MADE(latent, hidden, has_context=has_context, factors=factors)
        self.gate_bias = nn.Parameter(torch.empty(latent, dtype=dtype))

    @checked
    def forward(
        self, z: Float[Tensor, "samples batch latent"], context: Float[Tensor, "batch latent"] | None
    ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = torch.sigmoid(s)
        return gate * z + (1 - gate) * m, F.logsigmoid(s).sum(-1)

    @checked
    def inverse(
        self, z: Float[Tensor, "samples batch latent"], context: Float[Tensor, "batch latent"] | None
    ) -> Float[Tensor, "samples batch latent"]:
        """The point that the block takes to z: latent by latent, since (m, s) of each depend on those before it."""
        index = torch.arange(z.shape[-1], device=z.device)
        point = torch.zeros_like(z)
        for i in range(z.shape[-1]):
            m, s = self.made(point, context)
            gate = torch.sigmoid(s + self.gate_bias)
            point = torch.where(index == i, (z - (1 - gate) * m) / gate, point)
        return point


class Flow(nn.Module):
    """Blocks in a row; the latent axis is reversed between two of them."""

    def __init__(self, latent: int, hidden: int, depth: int, *, has_context: bool, dtype: torch.dtype, factors: torch.dtype):
        super().__init__()
        options: Any = {"has_context": has_context, "dtype": dtype, "factors": factors}
        self.blocks = nn.ModuleList(Block(latent, hidden, **options) for _ in range(depth))

    @checked
    def forward(self, z: Float[Tensor, "samples batch latent"], context: Float[Tensor, "batch latent"] | None) -> Quantities:
        """Each block's z and log_det under `blocks.I.`, the last z as `z` and the sum of all log-dets as `log_det`."""
        quantities: Quantities = {}
        log_det = torch.zeros_like(z[..., 0])
        for i, block in enumerate(self.blocks):
            if i > 0:
                z = z.flip(-1)
            z, block_log_det = block(z, context)
            log_det = log_det + block_log_det
            quantities |= {f"blocks.{i}.z": z, f"blocks.{i}.log_det": block_log_det}
        return quantities | {"z": z, "log_det": log_det}

    @checked
    def inverse(
        self, z: Float[Tensor, "samples batch latent"], context: Float[Tensor, "batch latent"] | None
    ) -> Float[Tensor, "samples batch latent"]:
        """The point that the blocks take to z."""
        for i in reversed(range(len(self.blocks))):
            point = self.blocks[i].inverse(z, context)
            z = point.flip(-1) if i else point
        return z
