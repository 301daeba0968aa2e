"""The update rules of common/config.py, and the moments of the portable state in and out of an optimizer."""

from typing import Any

import jax.numpy as jnp
import optax

from backends.jax.shapes import Quantities, checked
from common import config
from common.parameters import decays


def create(settings: config.Optimizer) -> optax.GradientTransformation:
    """Gradient of the loss → direction of descent; the caller multiplies by −(learning rate of the step)."""
    if settings.optimizer == "rmsprop":
        scale_by = optax.scale_by_stddev if settings.rmsprop_centered else optax.scale_by_rms
        scaled = scale_by(
            decay=settings.rmsprop_decay,
            eps=settings.rmsprop_epsilon,
            eps_in_sqrt=settings.rmsprop_epsilon_in_root,
        )
    else:
        scaled = optax.scale_by_adam(b1=settings.adam_beta1, b2=settings.adam_beta2, eps=settings.adam_epsilon)
    decayed = optax.add_decayed_weights(
        settings.weight_decay, mask=lambda parameters: {name: decays(name, settings) for name in parameters}
    )
    return optax.chain(scaled, decayed)


@checked
def clipped(gradients: Quantities, settings: config.Optimizer) -> Quantities:
    """g·clip/max(‖g‖, clip), ‖g‖ the norm of all gradients together; g itself where `clip` is 0 (Pascanu et al. 2013)."""
    if not settings.clip:
        return gradients
    norm = jnp.sqrt(sum(jnp.square(gradient).sum() for gradient in gradients.values()))
    factor = settings.clip / jnp.maximum(norm, settings.clip)
    return {name: factor * gradient for name, gradient in gradients.items()}


MOMENTS = {"first_moment": "mu", "second_moment": "nu"}


@checked
def load_moments(state: Any, moments: Quantities, step: int, settings: config.Optimizer) -> Any:
    """The optimizer's state with these moments (`first_moment/NAME` … → array) and this number of steps done."""
    scaled, *rest = state
    own = {}
    for portable, field in MOMENTS.items():
        if field in scaled._fields:
            own[field] = {name: moments[f"{portable}/{name}"] for name in scaled.nu}
    if settings.optimizer == "adam":
        own["count"] = jnp.asarray(step, jnp.int32)
    return (scaled._replace(**own), *rest)


@checked
def moments(state: Any) -> Quantities:
    """The inverse of `load_moments`."""
    scaled, *_ = state
    return {
        f"{portable}/{name}": value
        for portable, field in MOMENTS.items()
        if field in scaled._fields
        for name, value in getattr(scaled, field).items()
    }
