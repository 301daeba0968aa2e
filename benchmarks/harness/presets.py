"""Named settings, each a change to the defaults of common/config.py."""

from __future__ import annotations

from typing import Any

from common.config import SECTIONS, TOP, Config
from common.errors import unknown

STANDARD = Config()

# Six models train in under three minutes on two cores.
QUICK = STANDARD.replace(latent_size=16, hidden_size=128, steps=2_000, warm_up=500, log_interval=250, validation_interval=500)

# Convolutions and a learnt prior: toward -80 nats in about two hours on two cores.
RESNET = STANDARD.replace(
    network="resnet",
    prior="flow",
    latent_size=40,
    hidden_size=320,
    dropout=0.2,
    weight_decay=0.2,
    decayed="weights",
    learning_rate_warm_up=500,
    clip=100.0,
    warm_up=3_000,
    ema_decay=0.999,
    selection="best-validation",
    image_batch=10,  # the maps of more images leave the cache
)
# For a GPU.
RESNET_LARGE = RESNET.replace(latent_size=64, hidden_size=640, channels=64, blocks=3, steps=150_000, image_batch=100)

# The scripts of jaanli/variational-autoencoder. The scripts sum the loss over a batch of B images; this suite takes the mean.
# Here their ε is divided by B outside the root and by B² inside the root; TensorFlow's accumulator of 1 becomes 1/B².
ANCESTOR = STANDARD.replace(
    optimizer="rmsprop", learning_rate=1e-3, schedule="constant", warm_up=0, data_bias=False, selection="last"
)
ANCESTOR_PYTORCH = ANCESTOR.replace(
    hidden_size=256,
    rmsprop_decay=0.99,
    rmsprop_centered=True,
    rmsprop_epsilon=1e-8 / 128,
    rmsprop_epsilon_in_root=False,
    initial_weights="torch-linear",
    selection="best-validation",
    validation_interval=10_000,
)
ANCESTOR_JAX = ANCESTOR.replace(
    rmsprop_decay=0.9, rmsprop_epsilon=1e-8 / 128**2, rmsprop_epsilon_in_root=True, initial_weights="lecun-normal"
)
ANCESTOR_TENSORFLOW = ANCESTOR.replace(
    latent_size=100,
    hidden_size=200,
    batch_size=64,
    steps=100_000,
    rmsprop_decay=0.9,
    rmsprop_epsilon=1e-10 / 64**2,
    rmsprop_epsilon_in_root=True,
    rmsprop_initial_accumulator=1 / 64**2,
    initial_weights="glorot",
)

PRESETS = {
    "quick": QUICK,
    "standard": STANDARD,
    "standard-flow-prior": STANDARD.replace(prior="flow"),
    "resnet": RESNET,
    "resnet-standard-prior": RESNET.replace(prior="standard"),
    "resnet-large": RESNET_LARGE,
    "ancestor-pytorch": ANCESTOR_PYTORCH,
    "ancestor-jax": ANCESTOR_JAX,
    "ancestor-tensorflow": ANCESTOR_TENSORFLOW,
}


def preset(name: str) -> Config:
    """Raises `UserError` for a name that isn't in PRESETS."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


# Settings that a record's name has elsewhere; the data set decides the image shape.
NAMED_APART = ("variational", "seed", "dtype", "precision", "device", "image_shape")
# Settings by which runs may differ that share one checkpoint: they change no parameter.
SHARING = (*SECTIONS["evaluation"], "chunk", "log_interval")
# Settings that may change when a run goes on from its checkpoint: they change no parameter but by a device's rounding.
MAY_CHANGE = (*SHARING, "device", "devices")


def differing(config: Config, other: Config) -> dict[str, Any]:
    """The settings in which `config` differs from `other`, with `config`'s values.

    `compile_from` counts only where one of the two compiles `config`'s number of steps and the other doesn't.
    """
    ours, theirs = flat(config), flat(other)
    steps = config.training.steps
    if (steps >= ours["compile_from"]) == (steps >= theirs["compile_from"]):
        theirs["compile_from"] = ours["compile_from"]
    return {name: value for name, value in ours.items() if theirs[name] != value}


def changed(config: Config, name: str) -> dict[str, Any]:
    """The settings, other than NAMED_APART, in which a run differs from its preset; {} for a name that isn't in PRESETS.

    A study's runs have names such as "ancestor-jax+width"; the study's report says their settings.
    """
    if name not in PRESETS:
        return {}
    return {key: value for key, value in differing(config, PRESETS[name]).items() if key not in NAMED_APART}


def flat(config: Config) -> dict[str, Any]:
    """Every setting of a config by its name, of all sections."""
    owners = [(getattr(config, section), name) for section, names in SECTIONS.items() for name in names]
    return {name: getattr(owner, name) for owner, name in (*owners, *((config, name) for name in TOP))}
