"""PyTorch's dense layers give the same numbers through oneDNN as without it, on any processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import floor
from common.protocol import load, probes
from tests.parity.conftest import deviation, random_state, session, small

torch = pytest.importorskip("torch")

ROUNDING = 1e-6  # of float32, in a sum of up to 784 products


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> Any:
    """backends/pytorch/dense.py, on a processor where each product goes through oneDNN."""
    load("pytorch")
    from backends.pytorch import dense

    monkeypatch.setattr(dense, "onednn", True)
    monkeypatch.setattr(dense, "LEAST", 0)
    return dense


def values(linear: Any, *arrays: np.ndarray, dtype: Any) -> list[np.ndarray]:
    """A layer's result, and gradients of the sum of its squares."""
    inputs = [torch.tensor(array, dtype=dtype, requires_grad=True) for array in arrays]
    result = linear(*inputs)
    return [t.detach().numpy() for t in (result, *torch.autograd.grad(result.square().sum(), inputs))]


@pytest.mark.parametrize("shape", [(128, 784), (1, 1), (3, 5, 40)])
@pytest.mark.parametrize("outputs", [1, 80])
def test_the_result_and_the_gradients_are_those_of_float64(dense: Any, shape: tuple[int, ...], outputs: int) -> None:
    draws = np.random.default_rng(0)
    arrays = draws.normal(size=shape), draws.normal(size=(outputs, shape[-1])), draws.normal(size=outputs)
    for ours, exact in zip(
        values(dense.linear, *arrays, dtype=torch.float32),
        values(torch.nn.functional.linear, *arrays, dtype=torch.float64),
        strict=True,
    ):
        assert ours.shape == exact.shape
        assert deviation(ours.astype(np.float64), exact) <= ROUNDING


@pytest.mark.parametrize("compile_from", [41, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_a_model_trains_through_onednn_as_without_it(
    dense: Any, monkeypatch: pytest.MonkeyPatch, family: str, network: str, compile_from: int
) -> None:
    """Within float32's rounding after 5 steps. In float64 no product goes through oneDNN: the bits are the same.

    Each dense layer's products do in float32, forward and both gradients, since those are what the floor multiplies.
    """
    images = (np.random.default_rng(0).random((100, 32)) < 0.3).astype(np.uint8)
    chosen: list[bool] = []
    monkeypatch.setattr(
        dense, "through_onednn", lambda *factors, of=dense.through_onednn: chosen.append(of(*factors)) or chosen[-1]
    )
    multiplied: list[bool] = []
    if compile_from:  # a compiled step doesn't call Python
        monkeypatch.setattr(dense, "product", lambda *pair, of=dense.product: multiplied.append(True) or of(*pair))
    config = small(family, compile_from=compile_from, network=network, data_bias=False)
    config = config.replace(image_shape=(4, 8), channels=8, blocks=1)

    def trained(dtype: str) -> dict[str, np.ndarray]:
        own = config.replace(dtype=dtype)
        s = session("pytorch", own, random_state(own))
        rows = np.arange(100, dtype=np.int32).reshape(5, 20)
        options = {"learning_rates": np.full(5, 1e-3), "kl_weights": np.ones(5), "seed": 5, "noise": None}
        s.train(s.place(images), rows, first_step=0, **options)
        return s.state()

    through = trained("float32")
    if compile_from:
        of_a_step = [sizes for sizes in floor.products(config) if len(sizes) == 3]
        assert len(multiplied) == 5 * len(of_a_step)
    in_float64 = trained("float64")
    assert set(chosen) == {True, False}
    assert chosen == sorted(chosen, reverse=True)  # float32 first, and none of float64
    monkeypatch.setattr(dense, "onednn", False)
    for ours, without, bound in zip((through, in_float64), (trained("float32"), trained("float64")), (1e-4, 0.0), strict=True):
        for name, value in without.items():
            assert deviation(ours[name].astype(np.float64), value) <= bound, name


def test_the_floor_multiplies_by_the_same_library(dense: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(dense, "product", lambda left, right: shapes.append((*left.shape, *right.shape)) or left @ right.t())
    options: Any = {"products": [(4, 7, 3)], "device": "cpu"}
    for dtype in ("float32", "float64"):
        probes("pytorch").products(**options, dtype=dtype)(1)
    assert shapes == [(4, 7, 3, 7)]


@pytest.mark.parametrize(
    ("vendor", "capability", "library"),
    [
        ("AuthenticAMD", "AVX512", "oneDNN"),
        ("AuthenticAMD", "AVX2", None),
        ("GenuineIntel", "AVX512", None),
        (None, "AVX512", None),
    ],
)
def test_the_processor_decides_and_the_record_says_which(
    dense: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str | None, capability: str, library: str | None
) -> None:
    monkeypatch.setattr(dense, "PROCESSOR", file := tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if vendor:
        file.write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr(dense, "onednn", dense.onednn_is_faster())
    assert probes("pytorch").product_library() == library


def test_what_torch_compile_is_told_of_the_operator_is_true(dense: Any) -> None:
    """Shapes, gradients, and that it changes no argument."""
    torch.library.opcheck(dense.product, (torch.randn(3, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)))


def test_small_products_are_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    load("pytorch")
    from backends.pytorch import dense

    monkeypatch.setattr(dense, "onednn", True)
    weight = torch.zeros(512, 512)
    assert dense.through_onednn(torch.zeros(1, 128, 512), weight)
    assert not dense.through_onednn(torch.zeros(1, 128, 64), weight[:, :64])
