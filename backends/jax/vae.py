"""The variational autoencoder (Kingma and Welling 2014): log weights and the training objective, in nats per image."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from backends.jax.flow import Flow
from backends.jax.networks import MLP
from backends.jax.shapes import Quantities, checked
from common import protocol
from common.config import Model

NETWORKS = {"mlp": MLP}  # the setting `network` → the class of the encoder and the decoder


@checked
def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.nn.softplus(x)


@checked
def standard_normal_log_density(x: Float[Array, "*rows latent"]) -> Float[Array, "*rows"]:
    """log N(x; 0, I)."""
    return -0.5 * (jnp.square(x) + math.log(2 * math.pi)).sum(-1)


class VAE(nnx.Module):
    """p(z) = N(0, I), p(x|z) = Bernoulli(decoder(z)); q(z|x) is Gaussian, or a flow over one with context h."""

    def __init__(self, model: Model, *, dtype: DTypeLike, factors: DTypeLike, rngs: nnx.Rngs):
        options: Any = {"dtype": dtype, "factors": factors, "rngs": rngs}
        self.latent = model.latent_size
        flow = model.variational == "flow"
        network = protocol.network(NETWORKS, model, backend="jax")
        self.encoder = network(model.pixels, model.hidden_size, (3 if flow else 2) * model.latent_size, **options)
        self.flow = Flow(model.latent_size, model.hidden_size, model.flow_depth, **options) if flow else None
        self.decoder = network(model.latent_size, model.hidden_size, model.pixels, **options)

    @checked
    def encode(self, x: Float[Array, "batch pixels"]) -> dict[str, Float[Array, "batch {self.latent}"]]:
        """loc, scale and, for a flow, context, [batch, latent] each: q's Gaussian base is N(loc, scale²)."""
        out = self.encoder(x)
        loc, s, *context = jnp.split(out, out.shape[-1] // self.latent, axis=-1)
        return {"loc": loc, "scale": softplus(s)} | ({"context": context[0]} if context else {})

    @checked
    def posterior(self, x: Float[Array, "batch pixels"], noise: Float[Array, "samples batch {self.latent}"]) -> Quantities:
        """By name: z ~ q(z|x), [samples, batch, latent], its density log_q, [samples, batch], and the quantities before."""
        quantities = self.encode(x)
        loc, scale = quantities["loc"], quantities["scale"]
        z = loc + scale * noise
        log_q = standard_normal_log_density(noise) - jnp.log(scale).sum(-1)
        quantities |= {"base_z": z, "base_log_q": log_q}
        if self.flow is not None:
            quantities |= self.flow(z, quantities["context"])
            z, log_q = quantities["z"], log_q - quantities["log_det"]
        return quantities | {
            "z": z,
            "log_q": log_q,
        }

    @checked
    def __call__(self, x: Float[Array, "batch pixels"], noise: Float[Array, "samples batch {self.latent}"]) -> Quantities:
        """Every quantity by name: those of `posterior`, logits [samples, batch, pixels] and the densities [samples, batch]."""
        quantities = self.posterior(x, noise)
        z = quantities["z"]
        logits = self.decoder(z)
        return quantities | {
            "logits": logits,
            "log_p_x_given_z": (x * logits - softplus(logits)).sum(-1),
            "log_p_z": standard_normal_log_density(z),
        }


@checked
def log_weights(quantities: Quantities, kl_weight: float | Float[Array, ""]) -> Float[Array, "samples batch"]:
    """log w_β = log p(x|z) + β·(log p(z) − log q(z|x))."""
    return quantities["log_p_x_given_z"] + kl_weight * (quantities["log_p_z"] - quantities["log_q"])


@checked
def objective(log_w: Float[Array, "samples batch"]) -> Float[Array, ""]:
    """Mean over the batch of logmeanexp over samples: the ELBO for one, else IWAE's bound (Burda et al. 2016, eq. 8)."""
    if len(log_w) == 1:
        return log_w.mean()
    return (jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))).mean()
