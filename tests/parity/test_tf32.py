"""TF32: off unless asked for, in every backend, and never beside what does without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common import tf32
from common.config import Config, check
from common.errors import UserError
from common.protocol import load


def switch(backend: str) -> bool:
    """Whether the framework would round the factors of a float32 product or convolution on a GPU. JAX and TensorFlow have one
    switch for both.
    """
    if backend == "pytorch":
        import torch

        products, convolutions = (b.fp32_precision for b in (torch.backends.cuda.matmul, torch.backends.cudnn.conv))
        assert products == convolutions
        return bool(products == "tf32")
    if backend == "jax":
        import jax

        return bool(jax.config.jax_default_matmul_precision == "tensorfloat32")
    import tensorflow as tf

    return bool(tf.config.experimental.tensor_float_32_execution_enabled())


@pytest.fixture
def rounded(backend: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """The backend's, in a process that has settled on nothing yet; the switch is off again after the test."""
    monkeypatch.setattr(tf32, "_settled", [])
    module: Any = load(backend).devices  # type: ignore[attr-defined]
    yield module.rounded
    monkeypatch.setattr(tf32, "_settled", [])
    module.rounded("float32")


def test_the_switch_is_on_for_tf32_alone(backend: str, rounded: Callable[[str], Any]) -> None:
    assert "float32" in str(rounded("tf32"))
    assert switch(backend)
    with pytest.raises(UserError, match="whole process"):
        rounded("float32")


@pytest.mark.parametrize("factors", ["float32", "float64", "bfloat16"])
def test_the_switch_is_off_for_all_else(backend: str, rounded: Callable[[str], Any], factors: str) -> None:
    assert factors in str(rounded(factors))
    assert not switch(backend)
    with pytest.raises(UserError, match="whole process"):
        rounded("tf32")


def test_a_model_settles_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.parity.conftest import random_state, session, small

    settled: list[bool] = []
    monkeypatch.setattr(tf32, "_settled", settled)
    config = small("mean-field", dtype="float32")
    session(backend, config, random_state(config))
    assert settled == [False]


def test_it_is_a_gpus_and_float32s() -> None:
    config = Config().replace(precision="tf32", batch_size=1)
    with pytest.raises(UserError, match="--precision tf32 is a GPU's"):
        check(config, train_images=10, test_images=10)
    with pytest.raises(UserError, match="--precision tf32 is for --dtype float32, not float64"):
        check(config.replace(dtype="float64", device="cuda"), train_images=10, test_images=10)
    check(config.replace(device="cuda"), train_images=10, test_images=10)
    assert config.factors == "tf32"
