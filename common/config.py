"""Every setting of the suite, with its default and its help text. No backend has a default of its own.

A field made by `setting` is a command-line flag; the field's name is the flag's name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from common.errors import UserError, did_you_mean

Variational = Literal["mean-field", "flow"]
Network = Literal["mlp", "resnet"]
Prior = Literal["standard", "flow"]
InitialWeights = Literal["lecun-normal", "glorot", "torch-linear"]
Dtype = Literal["float32", "float64"]
Precision = Literal["full", "tf32", "bfloat16"]
Factors = Literal["float32", "float64", "tf32", "bfloat16"]
FAMILIES: tuple[Variational, ...] = get_args(Variational)
Device = Literal["cpu", "cuda"]


def square_or_row(pixels: int) -> tuple[int, int]:
    """The shape of images of this many pixels where none is stated: a square if that fits, else one row."""
    side = math.isqrt(pixels)
    return (side, side) if side * side == pixels else (1, pixels)


def setting(default: Any, help: str) -> Any:
    """A dataclass field that is also a command-line flag."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model. Two equal models have the same parameters, in every backend."""

    variational: Variational = setting(
        "mean-field", "Family of q(z|x): a diagonal Gaussian, or an inverse autoregressive flow."
    )
    network: Network = setting("mlp", "Network of the encoder and the decoder.")
    image_shape: tuple[int, int] = (28, 28)  # rows and columns; not a flag: the data set decides
    latent_size: int = setting(128, "Dimensions of z.")
    hidden_size: int = setting(512, "Width of every hidden layer.")
    flow_depth: int = setting(2, "Inverse autoregressive blocks (flow only).")
    prior: Prior = setting("standard", "p(z): a standard normal, or autoregressive blocks over one.")
    prior_depth: int = setting(4, "Autoregressive blocks of the prior (prior flow only).")
    channels: int = setting(32, "Channels at half the image's sides, twice as many at a quarter (resnet only).")
    blocks: int = setting(1, "Residual blocks at either resolution, in the encoder and in the decoder (resnet only).")
    dropout: float = setting(0.0, "Probability that training drops a hidden unit of the MLP, or a residual block's channel.")

    @property
    def pixels(self) -> int:
        return self.image_shape[0] * self.image_shape[1]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The update rule, for each parameter θ at step t = 1, 2 … with the step's learning rate η.

    g is the gradient of minus the mean objective of the batch, and with `clip` this times clip/max(‖g‖, clip). The direction d:

        adam     m ← β₁·m + (1 − β₁)·g,  v ← β₂·v + (1 − β₂)·g²,  d = m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
        rmsprop  v ← ρ·v + (1 − ρ)·g²,  d = g/(√v + ε) or g/√(v + ε);  centered: m ← ρ·m + (1 − ρ)·g, and v − m² for v

    (Kingma and Ba 2015, algorithm 1; Hinton 2012, Graves 2013), and θ ← (1 − η·weight_decay)·θ − η·d (Loshchilov and Hutter
    2019).
    """

    optimizer: Literal["adam", "rmsprop"] = setting("adam", "Update rule.")
    learning_rate: float = setting(1e-3, "Learning rate; the schedule and the warm-up multiply it.")
    schedule: Literal["constant", "cosine"] = setting("cosine", "Learning rate over the steps; cosine ends at 0.")
    adam_beta1: float = setting(0.9, "Adam: decay of the first moment.")
    adam_beta2: float = setting(0.999, "Adam: decay of the second moment.")
    adam_epsilon: float = setting(1e-8, "Adam: added to the root of the second moment.")
    rmsprop_decay: float = setting(0.9, "RMSprop: decay of the second moment (and of the mean, if centered).")
    rmsprop_epsilon: float = setting(1e-8, "RMSprop: added to the second moment, inside or outside its root.")
    rmsprop_epsilon_in_root: bool = setting(False, "RMSprop: g/sqrt(v + epsilon) rather than g/(sqrt(v) + epsilon).")
    rmsprop_centered: bool = setting(False, "RMSprop: subtract the squared mean gradient from the second moment.")
    rmsprop_initial_accumulator: float = setting(0.0, "RMSprop: second moment before the first step.")
    weight_decay: float = setting(0.0, "Decoupled: each step first scales the parameters by 1 - learning rate * this.")
    decayed: Literal["all", "weights"] = setting("all", "Parameters that decay: all, or weights alone, without biases.")
    learning_rate_warm_up: int = setting(0, "Steps over which the learning rate grows linearly to its schedule; 0 for none.")
    clip: float = setting(0.0, "Largest norm of the whole gradient: a longer one is scaled to it; 0 for none.")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Steps, batches, initial values, noise, and which state is kept."""

    seed: int = setting(0, "Seeds initial weights, the order of minibatches and all noise, a stream each.")
    batch_size: int = setting(128, "Images a step.")
    devices: int = setting(1, "Devices of one run, a process each; each takes an equal part of every batch.")
    steps: int = setting(30_000, "Steps of training.")
    objective_samples: int = setting(1, "k: 1 trains on the ELBO, more on the importance-weighted bound.")
    warm_up: int = setting(10_000, "Steps over which the KL weight grows linearly to 1; 0 for none.")
    initial_weights: InitialWeights = setting("lecun-normal", "Distribution of the initial weights; biases start at 0.")
    data_bias: bool = setting(True, "Start the decoder's output bias at the training pixels' log-odds.")
    ema_decay: float = setting(
        0.0, "Moving average of the parameters, ema ← decay·ema + (1 − decay)·θ, used wherever they are judged; 0 for none."
    )
    noise: Literal["device", "shared"] = setting(
        "device", "The source of the training noise: the framework on its device, or NumPy, the same noise for all."
    )
    chunk: int = setting(100, "Steps a compiled call; changes the speed, and no result by a bit.")
    compile_from: int = setting(20_000, "PyTorch: use torch.compile for runs of at least this many steps.")
    log_interval: int = setting(500, "Steps between points of the training curve.")
    validation_interval: int = setting(1_000, "Steps between validations and checkpoints.")
    selection: Literal["last", "best-validation"] = setting("last", "Which state is tested.")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a trained model is judged."""

    samples: int = setting(1_000, "K: importance samples an image for log p(x).")
    images: int = setting(0, "Test images to score, the same for every seed; 0 for all.")
    image_batch: int = setting(100, "Images a call; changes results by rounding alone.")
    sample_block: int = setting(
        25, "Samples an image a call, rounded up to a multiple of 25; changes results by rounding alone."
    )


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """Annealed importance sampling, which no run does: `evaluate --ais` and the study `gaps` have these settings.

    Wu et al. (2017) took 16 chains and 10 leapfrog steps, and, starting from the prior, 10,000 distributions.
    """

    chains: int = setting(16, "Chains an image.")
    distributions: int = setting(1_000, "Distributions from the encoder's posterior to the true one.")
    leapfrogs: int = setting(10, "Leapfrog steps of a Hamiltonian move.")
    schedule: Literal["sigmoid", "linear"] = setting("sigmoid", "Of β, from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run. With a backend and a data set they determine its numbers."""

    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    dtype: Dtype = setting("float32", "Precision of the parameters, and of all arithmetic that --precision leaves to it.")
    precision: Precision = setting(
        "full",
        "Precision of matrix products: full, the dtype's; or TF32 (on a GPU) or bfloat16, with sums in float32. "
        "Everything else is computed in the dtype.",
    )
    device: Device = setting("cpu", "Where the model lives.")

    def replace(self, **changes: Any) -> Config:
        """This config with some settings changed. Each is named by its field, whatever section the field is in.

        Raises `UserError` for a name that no section has.
        """
        sections = {section: getattr(self, section) for section in SECTIONS}
        top = {}
        for name, value in changes.items():
            homes = [section for section, fields in SECTIONS.items() if name in fields]
            if homes:
                sections[homes[0]] = dataclasses.replace(sections[homes[0]], **{name: value})
            elif name in TOP:
                top[name] = value
            else:
                every = [*TOP, *(field for fields in SECTIONS.values() for field in fields)]
                lists = "`python -m benchmarks run --help-all` lists them"
                raise UserError(f"There is no setting '{name}'; {lists}.{did_you_mean(name, every)}")
        return dataclasses.replace(self, **sections, **top)

    def on(self, device: Device) -> Config:
        """The same model on this device; on a CPU, which has no TF32, in full precision instead."""
        lost = self.precision == "tf32" and device == "cpu"
        return self.replace(device=device, precision="full" if lost else self.precision)

    @property
    def factors(self) -> Factors:
        """The precision of the factors of matrix products; also the run's label in names and tables."""
        return factors(self.dtype, self.precision)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: a dictionary a section.

        A model has its `pixels`, and its `image_shape` only where that isn't `square_or_row` of them. A setting of LATER is
        there only where it isn't the default: files from before it say the same.
        """
        values = dataclasses.asdict(self)
        for section, names in LATER.items():
            for name in names:
                if values[section][name] == getattr(DEFAULTS[section], name):
                    del values[section][name]
        rows, columns = values["model"].pop("image_shape")
        values["model"]["pixels"] = rows * columns
        if (rows, columns) != square_or_row(rows * columns):
            values["model"]["image_shape"] = [rows, columns]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `as_dict`; reads what earlier versions wrote, too.

        A config without `precision` was computed in full, and one without `compile_from` eagerly. Raises `UserError` for a
        setting that is missing or that this version doesn't know; `check_settings` judges the values.
        """
        _same_names(values, (*SECTIONS, *TOP), optional={"precision"})
        for section, names in SECTIONS.items():
            if not isinstance(values[section], dict):
                raise UserError(f"its '{section}' is no section of settings.")
            own = (*names, "pixels") if section == "model" else names
            _same_names(values[section], own, optional={"pixels", "image_shape", "compile_from", *LATER.get(section, ())})
        model = dict(values["model"])
        shape = _image_shape(model.pop("image_shape", None), model.pop("pixels", None))
        training = dict(values["training"])
        if "compile_from" not in training:
            training["compile_from"] = int(training["steps"]) + 1 if KINDS["steps"][1](training["steps"]) else 0
        return cls(
            model=Model(**model, image_shape=shape),
            optimizer=Optimizer(**values["optimizer"]),
            training=Training(**training),
            evaluation=Evaluation(**values["evaluation"]),
            dtype=values["dtype"],
            precision=values.get("precision", "full"),
            device=values["device"],
        )


def _image_shape(stated: Any, pixels: Any) -> tuple[int, int]:
    """Rows and columns, as stated, or of so many pixels. Raises `UserError` for other than whole numbers of 1 or more."""
    sizes = stated if stated is not None else [1, pixels]
    whole = isinstance(sizes, list | tuple) and all(type(size) is int and size >= 1 for size in sizes)
    if not whole or len(sizes) != 2 or pixels not in (None, sizes[0] * sizes[1]):
        raise UserError(f"its images have the shape {stated or '?'} and {pixels} pixels, not rows and columns.")
    return (sizes[0], sizes[1]) if stated is not None else square_or_row(pixels)


def _same_names(given: Iterable[str], names: Iterable[str], *, optional: set[str]) -> None:
    """Raises `UserError` for a given name that isn't in `names`, and for a name that is neither given nor optional."""
    if unknown := sorted({*given} - {*names}):
        raise UserError(f"this version has no setting {', '.join(unknown)}.")
    if missing := sorted({*names} - {*given} - optional):
        raise UserError(f"its settings lack {', '.join(missing)}.")


def factors(dtype: Dtype, precision: Precision) -> Factors:
    """The precision of the factors of matrix products."""
    return dtype if precision == "full" else precision


def stored(factors: Factors) -> str:
    """The dtype of these factors in memory: the device rounds float32 to TF32 within the product."""
    return "float32" if factors == "tf32" else factors


SECTIONS: dict[str, tuple[str, ...]] = {
    section: tuple(f.name for f in dataclasses.fields(kind))
    for section, kind in (("model", Model), ("optimizer", Optimizer), ("training", Training), ("evaluation", Evaluation))
}
TOP = ("dtype", "precision", "device")  # settings of no section
DEFAULTS: dict[str, Any] = {"model": Model(), "optimizer": Optimizer(), "training": Training(), "evaluation": Evaluation()}
# Settings that files from before them lack.
LATER = {
    "model": ("network", "prior", "prior_depth", "channels", "blocks", "dropout"),
    "optimizer": ("decayed", "learning_rate_warm_up", "clip"),
    "training": ("devices",),
}


# (what a number must be, the settings that must be so, whether a number is so).
RULES: tuple[tuple[str, tuple[str, ...], Callable[[float], bool]], ...] = (
    (
        "at least 1",
        (
            *("latent_size", "hidden_size", "channels"),
            *("batch_size", "devices", "steps", "objective_samples", "chunk"),
            *("log_interval", "validation_interval", "samples", "image_batch", "sample_block"),
        ),
        lambda value: value >= 1,
    ),
    # Each block has arrays of its own: a reader lists them all before it sees that the file lacks them.
    ("at least 1 and at most 1000", ("flow_depth", "prior_depth", "blocks"), lambda value: 1 <= value <= 1000),
    (
        "a finite number, 0 or more",
        (
            *("warm_up", "compile_from", "seed", "images", "weight_decay"),
            *("learning_rate", "learning_rate_warm_up", "clip", "rmsprop_initial_accumulator"),
        ),
        lambda value: 0 <= value < math.inf,
    ),
    # Above 0, since a masked weight's moments stay 0.
    ("a finite number above 0", ("adam_epsilon", "rmsprop_epsilon"), lambda value: 0 < value < math.inf),
    (
        "at least 0 and below 1",
        ("ema_decay", "dropout", "adam_beta1", "adam_beta2", "rmsprop_decay"),
        lambda value: 0 <= value < 1,
    ),
)


def kind_of(kind: Any) -> tuple[str, Callable[[Any], bool]]:
    """(what a value of this type must be, whether a value is that): a Literal of text, bool, int or float; text for others."""
    if choices := get_args(kind):
        return f"one of {', '.join(choices)}", lambda value: value in choices
    if kind is bool:
        return "true or false", lambda value: isinstance(value, bool)
    if kind not in (int, float):
        return "text", lambda value: isinstance(value, str)
    kinds = (int,) if kind is int else (int, float)
    words = "a whole number" if kind is int else "a number"
    return words, lambda value: isinstance(value, kinds) and not isinstance(value, bool)


# Setting → what `kind_of` says of its type, for each that is a flag.
KINDS = {
    field.name: kind_of(get_type_hints(owner)[field.name])
    for owner in (Model, Optimizer, Training, Evaluation, Config)
    for field in dataclasses.fields(owner)
    if "help" in field.metadata
}


# The start of a setting's name → (a choice, the value of the choice that reads such settings).
READERS = {
    "flow_": ("variational", "flow"),
    "prior_": ("prior", "flow"),
    "channels": ("network", "resnet"),
    "blocks": ("network", "resnet"),
    "adam_": ("optimizer", "adam"),
    "rmsprop_": ("optimizer", "rmsprop"),
}


def unread(name: str, config: Config) -> str | None:
    """The choice of the config that makes the setting change nothing, "mean-field" for flow_depth; None where it is read."""
    for start, (choice, reader) in READERS.items():
        chosen = str(getattr(config.optimizer if choice == "optimizer" else config.model, choice))
        if name.startswith(start) and chosen != reader:
            return chosen
    return None


def check(config: Config, *, train_images: int, test_images: int) -> None:
    """Raise `UserError` for the first setting that makes no sense alone or with a data set of these sizes."""
    check_settings(config)
    if config.training.batch_size > train_images:
        raise UserError(
            f"--batch-size is {config.training.batch_size}, but the data set has only {train_images} training images."
        )
    if config.evaluation.images > test_images:
        raise UserError(f"--images is {config.evaluation.images}, but the data set has only {test_images} test images.")


def check_settings(config: Config) -> None:
    """Raise `UserError` for the first setting whose value is of another type, out of its range or none of its choices."""
    model = SECTIONS["model"]
    settings = {name: value for section in SECTIONS for name, value in vars(getattr(config, section)).items()}
    settings |= {name: getattr(config, name) for name in TOP}
    for name, (condition, fits) in KINDS.items():
        if not fits(settings[name]):
            raise UserError(f"--{name.replace('_', '-')} is {settings[name]}; it must be {condition}.")
    for condition, names, fits in RULES:
        for name in names:
            if not fits(settings[name]) and (name not in model or unread(name, config) is None):
                raise UserError(f"--{name.replace('_', '-')} is {settings[name]}; it must be {condition}.")
    batch, devices = config.training.batch_size, config.training.devices
    if batch % devices:
        raise UserError(
            f"--devices is {devices}, which doesn't divide --batch-size {batch}: each device takes an equal part of a batch; "
            f"give another number of devices, or --batch-size {-(-batch // devices) * devices}."
        )
    rows, columns = config.model.image_shape
    if config.model.network == "resnet" and (rows % 4 or columns % 4):
        raise UserError(
            f"--network resnet halves the image's sides twice, and {rows} × {columns} aren't both divisible by 4; "
            "use --network mlp, or pad the images; if these aren't their rows and columns, give the data set its image_shape."
        )
    if config.precision != "full" and config.dtype != "float32":
        raise UserError(f"--precision {config.precision} is for --dtype float32, not {config.dtype}; leave one of the two out.")
    if config.precision == "tf32" and config.device != "cuda":
        raise UserError("--precision tf32 is a GPU's: give --device cuda too, or --precision full.")
