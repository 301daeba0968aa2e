"""The variational autoencoder (Kingma and Welling 2014): log weights and the training objective, in nats per image."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from backends.pytorch.flow import Flow
from backends.pytorch.networks import MLP
from backends.pytorch.resnet import Decoder, Encoder
from backends.pytorch.shapes import Masks, Quantities, checked
from common import parameters, protocol
from common.config import Model
from common.noise import dropped_below

# The setting `network` → the classes of the encoder and the decoder.
NETWORKS = {
    "mlp": (MLP, MLP),
    "resnet": (Encoder, Decoder),
}


@checked
def softplus(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 + eˣ)."""
    # PyTorch's own threshold of 20 drops e^-20, which is 2e-9: too much in float64.
    return F.softplus(x, threshold=40)


@checked
def standard_normal_log_density(x: Float[Tensor, "*rows latent"]) -> Float[Tensor, "*rows"]:
    """log N(x; 0, I)."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


class VAE(nn.Module):
    """p(x|z) = Bernoulli(decoder(z)); q(z|x) is Gaussian, or a flow over one with context h; p(z) = N(0, I), or a flow."""

    def __init__(self, model: Model, *, dtype: torch.dtype, factors: torch.dtype):
        super().__init__()
        options: Any = {"dtype": dtype, "factors": factors}
        self.latent, self.draws = model.latent_size, parameters.noise_size(model)
        self.dropout, self.droppable = model.dropout, parameters.droppable(model)
        self.threshold = dropped_below(model.dropout)
        encoder, decoder = protocol.network(NETWORKS, model, backend="pytorch")
        flow, prior = model.variational == "flow", model.prior == "flow"
        sizes = (model.latent_size, model.hidden_size)
        self.encoder = encoder(model, model.pixels, (3 if flow else 2) * model.latent_size, factors=factors)
        self.flow = Flow(*sizes, model.flow_depth, has_context=True, **options) if flow else None
        self.prior = Flow(*sizes, model.prior_depth, has_context=False, **options) if prior else None
        self.decoder = decoder(model, model.latent_size, model.pixels, factors=factors)

    @checked
    def masks(
        self, noise: Float[Tensor, "samples batch {self.latent}"] | Float[Tensor, "samples batch {self.draws}"]
    ) -> dict[str, Masks]:
        """The masks of dropout of `encoder` and `decoder`, from all draws of a step of training; none from those of z alone.

        A unit is dropped where its draw is below Φ⁻¹(dropout); a unit that is kept is multiplied by 1/(1 − dropout).
        The encoder's masks are [batch, units], the decoder's [samples, batch, units].
        """
        masks: dict[str, Masks] = {"encoder": {}, "decoder": {}}
        if noise.shape[-1] == self.latent:
            return masks
        kept = noise >= self.threshold
        scaled = kept.to(noise.dtype) / (1 - self.dropout)
        start = self.latent
        for name, units in self.droppable.items():
            network, _, layer = name.partition(".")
            mask = scaled[..., start : start + units]
            masks[network][layer] = mask[0] if network == "encoder" else mask
            start += units
        return masks

    @checked
    def encode(self, x: Float[Tensor, "batch pixels"], masks: Masks) -> dict[str, Float[Tensor, "batch {self.latent}"]]:
        """loc, scale and, for a flow, context, [batch, latent] each: q's Gaussian base is N(loc, scale²)."""
        return self.moments(self.encoder(x, masks))

    @checked
    def moments(self, outputs: Float[Tensor, "batch outputs"]) -> dict[str, Float[Tensor, "batch {self.latent}"]]:
        """The encoder's outputs loc, s and, for a flow, context by name, as `encode` returns them: scale = softplus(s)."""
        loc, s, *context = outputs.split(self.latent, dim=-1)
        return {"loc": loc, "scale": softplus(s)} | ({"context": context[0]} if context else {})

    @checked
    def posterior(
        self, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch {self.latent}"], masks: Masks
    ) -> Quantities:
        """By name: z ~ q(z|x), [samples, batch, latent], its density log_q, [samples, batch], and the quantities before."""
        return self.draw(self.encode(x, masks), noise)

    @checked
    def draw(
        self, moments: dict[str, Float[Tensor, "batch {self.latent}"]], noise: Float[Tensor, "samples batch {self.latent}"]
    ) -> Quantities:
        """`posterior` of the q that has these `moments`.

        z₀ = loc + scale·noise and log q(z₀) = log N(noise; 0, I) − Σ log scale. A flow f, which has the context: z = f(z₀) and
        log q(z) = log q(z₀) − log|det ∂f/∂z₀|; else z = z₀.
        """
        quantities = dict(moments)
        loc, scale = quantities["loc"], quantities["scale"]
        z = loc + scale * noise
        log_q = standard_normal_log_density(noise) - scale.log().sum(-1)
        quantities |= {"base_z": z, "base_log_q": log_q}
        if self.flow is not None:
            found = self.flow(z, quantities["context"])
            z, log_q = found.pop("z"), log_q - found["log_det"]
            quantities |= {name if name == "log_det" else f"flow.{name}": value for name, value in found.items()}
        return quantities | {
            "z": z,
            "log_q": log_q,
        }

    @checked
    def posterior_noise(
        self, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "samples batch {self.latent}"]
    ) -> Float[Tensor, "samples batch {self.latent}"]:
        """The noise that `posterior` takes to z."""
        quantities = self.encode(x, {})
        base = z if self.flow is None else self.flow.inverse(z, quantities["context"])
        return (base - quantities["loc"]) / quantities["scale"]

    @checked
    def prior_density(self, z: Float[Tensor, "samples batch {self.latent}"]) -> Quantities:
        """log p(z), [samples, batch], as `log_p_z`: log N(z; 0, I), or with a flow f log N(f(z); 0, I) + log|det ∂f/∂z|.

        Of a flow, each block's z and log_det too.
        """
        if self.prior is None:
            return {"log_p_z": standard_normal_log_density(z)}
        found = self.prior(z, None)
        log_p_z = standard_normal_log_density(found.pop("z")) + found["log_det"]
        return {f"prior.{name}": value for name, value in found.items()} | {"log_p_z": log_p_z}

    @checked
    def prior_sample(self, noise: Float[Tensor, "batch {self.latent}"]) -> Float[Tensor, "batch {self.latent}"]:
        """z ~ p(z): the noise, or f⁻¹ of it."""
        return noise if self.prior is None else self.prior.inverse(noise[None], None)[0]

    @checked
    def forward(
        self,
        x: Float[Tensor, "batch pixels"],
        noise: Float[Tensor, "samples batch {self.latent}"] | Float[Tensor, "samples batch {self.draws}"],
    ) -> Quantities:
        """Every quantity by name: those of `posterior`, logits [samples, batch, pixels] and the densities [samples, batch].

        Dropout is on where the noise has its draws.
        """
        masks = self.masks(noise)
        quantities = self.posterior(x, noise[..., : self.latent], masks["encoder"])
        return quantities | self.joint(x, quantities["z"], masks["decoder"])

    @checked
    def joint(
        self, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "samples batch {self.latent}"], masks: Masks
    ) -> Quantities:
        """`prior_density` of z, the logits [samples, batch, pixels] and log p(x|z), [samples, batch], as `log_p_x_given_z`.

        log p(x|z) = Σ over pixels of x·logit − softplus(logit).
        """
        logits = self.decoder(z, masks)
        return self.prior_density(z) | {
            "logits": logits,
            "log_p_x_given_z": (x * logits - softplus(logits)).sum(-1),
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
