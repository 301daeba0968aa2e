"""Autoregressive flows: the posterior's (Kingma et al. 2016, eq. 10-14), and the prior's, without a context."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from backends.jax.networks import Linear
from backends.jax.shapes import Quantities, checked
from common.masks import made_masks


class _Mask(nnx.Variable):
    """A constant of the network: neither trained nor saved."""


class MaskedLinear(Linear):
    """x·(weight ∘ mask) + bias, all three and the result rounded to `factors`."""

    def __init__(self, mask: np.ndarray, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        inputs, outputs = mask.shape
        super().__init__(inputs, outputs, use_bias=True, dtype=dtype, factors=factors, rngs=rngs)
        self.mask = _Mask(jnp.asarray(mask, dtype))

    @checked
    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        return self._affine(x, self.kernel * self.mask)


class MADE(nnx.Module):
    """(m, s) of each latent from the latents before it and, where it `has_context`, the context (Germain et al. 2015)."""

    def __init__(self, latent: int, hidden: int, *, has_context: bool, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"dtype": dtype, "factors": factors, "rngs": rngs}
        masks = made_masks(latent_size=latent, hidden_size=hidden)
        self.first = MaskedLinear(masks["first"], **options)
        self.context = Linear(latent, hidden, use_bias=False, **options) if has_context else None
        self.second = MaskedLinear(masks["second"], **options)
        self.out = MaskedLinear(masks["out"], **options)

    @checked
    def __call__(
        self, z: Float[Array, "samples batch latent"], context: Float[Array, "batch latent"] | None
    ) -> tuple[Float[Array, "samples batch latent"], Float[Array, "samples batch latent"]]:
        if (self.context is None) != (context is None):
            raise ValueError("A MADE takes a context exactly where it was made for one.")
        hidden = self.first(z)
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context)
        hidden = nnx.relu(self.second(nnx.relu(hidden)))
        m, s = jnp.split(self.out(hidden).astype(z.dtype), 2, axis=-1)
        return m, s


class Block(nnx.Module):
    """z ← gate·z + (1 − gate)·m with gate = σ(s + gate_bias); its log|det ∂z'/∂z| is Σ log gate."""

    def __init__(self, latent: int, hidden: int, *, has_context: bool, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        self.made = MADE(latent, hidden, has_context=has_context, dtype=dtype, factors=factors, rngs=rngs)
        self.gate_bias = nnx.Param(jnp.zeros(latent, dtype))

    @checked
    def __call__(
        self, z: Float[Array, "samples batch latent"], context: Float[Array, "batch latent"] | None
    ) -> tuple[Float[Array, "samples batch latent"], Float[Array, "samples batch"]]:
        m, s = self.made(z, context)
        s = s + self.gate_bias
        gate = nnx.sigmoid(s)
        return gate * z + (1 - gate) * m, nnx.log_sigmoid(s).sum(-1)

    @checked
    def inverse(
        self, z: Float[Array, "samples batch latent"], context: Float[Array, "batch latent"] | None
    ) -> Float[Array, "samples batch latent"]:
        """The point that the block takes to z: latent by latent, since (m, s) of each depend on those before it."""
        index = jnp.arange(z.shape[-1])

        def step(i: Array, point: Array) -> Array:
            m, s = self.made(point, context)
            gate = nnx.sigmoid(s + self.gate_bias)
            return jnp.where(index == i, (z - (1 - gate) * m) / gate, point)

        return jax.lax.fori_loop(0, z.shape[-1], step, jnp.zeros_like(z))


class Flow(nnx.Module):
    """Blocks in a row; the latent axis is reversed between two of them."""

    def __init__(
        self,
        latent: int,
        hidden: int,
        depth: int,
        *,
        has_context: bool,
        dtype: DTypeLike,
        factors: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options: Any = {"has_context": has_context, "dtype": dtype, "factors": factors, "rngs": rngs}
        self.blocks = nnx.List([Block(latent, hidden, **options) for _ in range(depth)])

    @checked
    def __call__(self, z: Float[Array, "samples batch latent"], context: Float[Array, "batch latent"] | None) -> Quantities:
        """Each block's z and log_det under `blocks.I.`, the last z as `z` and the sum of all log-dets as `log_det`."""
        quantities: Quantities = {}
        log_det = jnp.zeros_like(z[..., 0])
        for i, block in enumerate(self.blocks):
            if i > 0:
                z = jnp.flip(z, -1)
            z, block_log_det = block(z, context)
            log_det = log_det + block_log_det
            quantities |= {f"blocks.{i}.z": z, f"blocks.{i}.log_det": block_log_det}
        return quantities | {"z": z, "log_det": log_det}

    @checked
    def inverse(
        self, z: Float[Array, "samples batch latent"], context: Float[Array, "batch latent"] | None
    ) -> Float[Array, "samples batch latent"]:
        """The point that the blocks take to z."""
        for i in reversed(range(len(self.blocks))):
            point = self.blocks[i].inverse(z, context)
            z = jnp.flip(point, -1) if i else point
        return z
