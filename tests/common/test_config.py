"""Configs as records and checkpoints hold them, those of earlier versions too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.config import Config, Model, check, square_or_row, unread
from common.errors import UserError


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (1, 12), (3, 4), (2, 8), (1, 1)])
def test_a_config_survives_json(shape: tuple[int, int]) -> None:
    config = Config(model=Model(image_shape=shape)).replace(steps=7, dtype="float64")
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(("pixels", "shape"), [(784, (28, 28)), (64, (8, 8)), (12, (1, 12)), (2, (1, 2))])
def test_a_config_that_has_only_pixels_is_of_a_square_or_a_row(pixels: int, shape: tuple[int, int]) -> None:
    """As data without a stated shape. The dictionary is the same again, so that old records still compare equal."""
    values: dict[str, Any] = Config().as_dict()
    values["model"]["pixels"] = pixels
    assert "image_shape" not in values["model"]
    config = Config.from_dict(values)
    assert (config.model.image_shape, config.model.pixels) == (shape, pixels)
    assert square_or_row(pixels) == shape
    assert config.as_dict() == values


def test_a_config_from_before_is_in_full_and_eager() -> None:
    values: dict[str, Any] = Config().as_dict()
    del values["precision"]
    assert Config.from_dict(values) == Config()
    del values["training"]["compile_from"]
    assert Config.from_dict(values) == Config().replace(compile_from=Config().training.steps + 1), "it was eager"
    assert Config().replace(dtype="float64").factors == "float64"
    assert Config().replace(precision="bfloat16").factors == "bfloat16"


def test_another_network_is_in_the_config_and_the_usual_one_is_not() -> None:
    other = Config().replace(network="deep")
    assert other.as_dict()["model"]["network"] == "deep"
    assert Config.from_dict(other.as_dict()) == other
    assert "network" not in Config().as_dict()["model"]


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("variational", "laplace", "it must be one of mean-field, flow"),
        ("network", "other", "it must be one of mlp"),
        ("dtype", "float16", "it must be one of float32, float64"),
        ("steps", "many", "--steps is many; it must be a whole number"),
        ("steps", 2.5, "it must be a whole number"),
        ("batch_size", True, "it must be a whole number"),
        ("learning_rate", "high", "it must be a number"),
        ("data_bias", 1, "it must be true or false"),
    ],
)
def test_a_value_of_another_type_is_refused(setting: str, value: Any, words: str) -> None:
    """The command line's parser refuses these itself; settings from Python have no parser."""
    check(Config().replace(learning_rate=1), train_images=1000, test_images=100)
    with pytest.raises(UserError, match=words):
        check(Config().replace(**{setting: value}), train_images=1000, test_images=100)


def test_settings_of_later_are_in_the_config_only_where_they_change_something() -> None:
    """So that records and checkpoints from before say the same as new ones."""
    plain = Config().as_dict()
    later = {"prior": "flow", "prior_depth": 2, "channels": 8, "blocks": 2, "dropout": 0.1}
    later |= {"decayed": "weights", "learning_rate_warm_up": 5, "clip": 1.0, "devices": 2}
    config = Config().replace(**later)
    flat = config.as_dict()["model"] | config.as_dict()["optimizer"] | config.as_dict()["training"]
    for name, value in later.items():
        assert flat[name] == value
        assert name not in plain["model"] | plain["optimizer"] | plain["training"]
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "resnet", "image_shape": (28, 30)}, "28 × 30 aren't both divisible by 4; use --network mlp"),
        ({"network": "resnet", "channels": 0}, "--channels is 0; it must be at least 1"),
        ({"network": "resnet", "blocks": 0}, "--blocks is 0; it must be at least 1"),
        ({"prior": "flow", "prior_depth": 0}, "--prior-depth is 0; it must be at least 1"),
        ({"dropout": 1.0}, "--dropout is 1.0; it must be at least 0 and below 1"),
        ({"clip": -1.0}, "--clip is -1.0; it must be a finite number, 0 or more"),
        ({"devices": 0}, "--devices is 0; it must be at least 1"),
        ({"devices": 3}, "--devices is 3, which doesn't divide --batch-size 128.* give another number of devices, or .* 129"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(Config().replace(**changes), train_images=1000, test_images=100)


def test_settings_that_arent_read_may_be_anything() -> None:
    config = Config().replace(image_shape=(27, 29), channels=0, blocks=0, prior_depth=0)
    check(config, train_images=1000, test_images=100)
    assert [unread(name, config) for name in ("channels", "blocks", "prior_depth")] == ["mlp", "mlp", "standard"]
