"""The variational autoencoder (Kingma and Welling 2014): log weights and the training objective, in nats per image."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.flow import Flow
from backends.pytorch.networks import MLP
from backends.pytorch.shapes import Quantities, checked
from common import protocol
from common.config import Model

NETWORKS = {"mlp": MLP}  # the setting `network` → the class of the encoder and the decoder


@checked
def softplus(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    # PyTorch's own threshold of 20 drops e^-20, which is 2e-9: too much in float64.
    return F.softplus(x, threshold=40)


@checked
def standard_normal_log_density(x: Float[Tensor, "*rows latent"]) -> Float[Tensor, "*rows"]:
    """log N(x; 0, I)."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


class VAE(nn.Module):
    """p(z) = N(0, I), p(x|z) = Bernoulli(decoder(z)); q(z|x) is Gaussian, or a flow over one with context h."""

    def __init__(self, model: Model, *, dtype: torch.dtype, factors: torch.dtype):
        super().__init__()
        self.latent = model.latent_size
        flow = model.variational == "flow"
        network = protocol.network(NETWORKS, model, backend="pytorch")
        self.encoder = network(model.pixels, model.hidden_size, (3 if flow else 2) * model.latent_size, factors=factors)
        self.flow = Flow(model.latent_size, model.hidden_size, model.flow_depth, dtype=dtype, factors=factors) if flow else None
        self.decoder = network(model.latent_size, model.hidden_size, model.pixels, factors=factors)

    @checked
    def encode(self, x: Float[Tensor, "batch pixels"]) -> dict[str, Float[Tensor, "batch {self.latent}"]]:
        """loc, scale and, for a flow, context, [batch, latent] each: q's Gaussian base is N(loc, scale²)."""
        loc, s, *context = self.encoder(x).split(self.latent, dim=-1)
        return {"loc": loc, "scale": softplus(s)} | ({"context": context[0]} if context else {})

    @checked
    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch {self.latent}"]) -> Quantities:
        """By name: z ~ q(z|x), [samples, batch, latent], its density log_q, [samples, batch], and the quantities before."""
        quantities = self.encode(x)
        loc, scale = quantities["loc"], quantities["scale"]
        z = loc + scale * noise
        log_q = standard_normal_log_density(noise) - scale.log().sum(-1)
        quantities |= {"base_z": z, "base_log_q": log_q}
        if self.flow is not None:
            quantities |= self.flow(z, quantities["context"])
            z, log_q = quantities["z"], log_q - quantities["log_det"]
        return quantities | {
            "z": z,
            "log_q": log_q,
        }

    @checked
    def forward(self, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch {self.latent}"]) -> Quantities:
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
def log_weights(quantities: Quantities, kl_weight: float | Float[Tensor, ""]) -> Float[Tensor, "samples batch"]:
    """log w_β = log p(x|z) + β·(log p(z) − log q(z|x))."""
    return quantities["log_p_x_given_z"] + kl_weight * (quantities["log_p_z"] - quantities["log_q"])


@checked
def objective(log_w: Float[Tensor, "samples batch"]) -> Float[Tensor, ""]:
    """Mean over the batch of logmeanexp over samples: the ELBO for one, else IWAE's bound (Burda et al. 2016, eq. 8)."""
    if len(log_w) == 1:
        return log_w.mean()
    return (log_w.logsumexp(0) - math.log(len(log_w))).mean()
