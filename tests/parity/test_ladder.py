"""The three frameworks are the same function: same weights, same noise, same numbers, rung by rung."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from benchmarks.harness.presets import RESNET, STANDARD
from benchmarks.parity import comparison, ladder
from benchmarks.parity.comparison import BrokenRungError, Job
from benchmarks.parity.ladder import Scenario, plain
from common.parameters import shapes
from common.protocol import BACKENDS
from tests.parity.conftest import SCENARIOS

PAIRS = list(combinations(BACKENDS, 2))
WHOLE = [scenario for scenario in SCENARIOS if "evaluation" in scenario.rungs]


def results(climbed: dict[str, Job], scenario: Scenario) -> comparison.Results:
    return {backend: job.read(SCENARIOS.index(scenario)) for backend, job in climbed.items()}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_rung_holds(climbed: dict[str, Job], scenario: Scenario) -> None:
    rows = comparison.compare(scenario, results(climbed, scenario), scenario.rungs)
    assert [(row.rung, row.pair) for row in rows] == [(rung, pair) for rung in scenario.rungs for pair in PAIRS]


def test_the_small_ladder_has_every_rung_family_precision_and_rule() -> None:
    assert {rung for scenario in SCENARIOS for rung in scenario.rungs} == comparison.RUNGS.keys()
    kinds = {(scenario.config.model.variational, scenario.config.factors) for scenario in SCENARIOS if scenario.whole}
    assert kinds >= {("mean-field", "float64"), ("flow", "float64"), ("flow", "float32"), ("flow", "bfloat16")}
    rules = {replace(scenario.config.optimizer, decayed="all", learning_rate_warm_up=0, clip=0.0) for scenario in SCENARIOS}
    kinds = {
        (scenario.config.model.network, scenario.config.model.variational, scenario.config.model.prior)
        for scenario in SCENARIOS
        if scenario.whole and scenario.config.dtype == "float64"
    }
    assert kinds >= {("resnet", *each) for each in product(("mean-field", "flow"), ("standard", "flow"))}
    assert ("mlp", "mean-field", "flow") in kinds
    assert len(rules) == len(ladder.rules()) + 1  # and float32's own


def test_the_standard_ladder_compiles_the_presets_residual_network_in_both_precisions() -> None:
    steps = ladder.TRAINED[-1]
    compiled = [scenario.config for scenario in ladder.standard(STANDARD) if scenario.config.training.compile_from <= steps]
    residual = [config for config in compiled if config.model.network == "resnet"]
    assert {(config.dtype, config.model.variational, config.model.prior) for config in residual} == {
        ("float64", "flow", "flow"),
        ("float32", "flow", "flow"),
    }
    assert {config.model.channels for config in residual} == {RESNET.model.channels}


@pytest.mark.parametrize("scenario", WHOLE, ids=lambda scenario: scenario.name)
def test_every_parameter_has_a_gradient_and_every_state_its_arrays(climbed: dict[str, Job], scenario: Scenario) -> None:
    names = shapes(scenario.config.model)
    for found in results(climbed, scenario).values():
        slopes = {"log w by noise", "log w by outputs"} if plain(scenario.config) else set()
        assert found["gradients"].keys() == {f"k={k}/gradient/{name}" for k in (1, 3) for name in names} | slopes
        for name, value in found["gradients"].items():
            assert np.abs(value).max() > 0, f"{name} is zero"
        moments = ["parameters", "ema", "optimizer/second_moment"]
        if scenario.config.optimizer.optimizer == "adam":
            moments.append("optimizer/first_moment")
        assert found["parameters"].keys() == {"step"} | {f"{group}/{name}" for group in moments for name in names}
        assert found["steps-100"].keys() == found["parameters"].keys() | {"objective", "elbo"}
        assert found["steps-100"]["step"] == scenario.steps_before + 100
        assert len(found["steps-10"]["elbo"]) == 10
        before, after = found["parameters"], found["steps-1"]
        for name in names:
            assert not np.array_equal(before[f"parameters/{name}"], after[f"parameters/{name}"]), name


@pytest.mark.parametrize("rung", WHOLE[1].rungs)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_moved_number_breaks_its_rung(climbed: dict[str, Job], rung: str, backend: str) -> None:
    scenario = WHOLE[1]
    assert "device-noise" in scenario.rungs
    found = results(climbed, scenario)
    name = max(found[backend][rung])
    value = found[backend][rung][name]
    index = np.unravel_index(np.abs(value).argmax(), value.shape)
    found[backend][rung][name] = value.copy()
    found[backend][rung][name][index] += 1 if value.dtype.kind == "i" else 1e-6 * max(1, abs(value[index]))
    with pytest.raises(BrokenRungError, match=rf"^{rung} \(mean-field adam float64\): {re.escape(name)}.*{backend}.*more than"):
        comparison.compare(scenario, found, scenario.rungs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("k=1/loc"), "of pytorch and jax, only pytorch has k=1/loc"),
        (lambda arrays: arrays.update(other=np.zeros(1)), "of pytorch and jax, only jax has other"),
        (lambda arrays: arrays.update({"k=1/loc": arrays["k=1/loc"][:-1]}), r"k=1/loc is float64\[20, 4\] in pytorch"),
        (lambda arrays: arrays.update({"k=1/loc": arrays["k=1/loc"].astype("f4")}), r"float32\[20, 4\] in jax"),
        (lambda arrays: arrays.update({"k=1/loc": arrays["k=1/loc"] * np.nan}), "k=1/loc of pytorch is nan off that of jax"),
    ],
)
def test_what_is_missing_or_no_number_breaks_its_rung(climbed: dict[str, Job], change, message: str) -> None:
    scenario = WHOLE[1]
    found = results(climbed, scenario)
    change(found["jax"]["encoder"])
    with pytest.raises(BrokenRungError, match=message):
        comparison.compare(scenario, found, scenario.rungs)


def test_faults_that_all_backends_share_are_found_in_their_own_noise(climbed: dict[str, Job]) -> None:
    scenario = WHOLE[1]
    found = results(climbed, scenario)
    for arrays in found.values():
        arrays["device-noise"] = {name: value + 1 for name, value in arrays["device-noise"].items()}
    with pytest.raises(BrokenRungError, match="device-noise"):
        comparison.compare(scenario, found, scenario.rungs)


def test_bytes_differ_where_numbers_do_not() -> None:
    zero = np.zeros(1)
    assert comparison.deviation(zero, -zero) == 0
    assert comparison.distance("parameters", zero, zero) == 0
    assert comparison.distance("parameters", zero, -zero) == 1


def test_a_deviation_is_relative_to_the_largest_number() -> None:
    assert comparison.deviation(np.array([1.0, 8.0]), np.array([2.0, 8.0])) == 1 / 8
    assert comparison.deviation(np.zeros(2), np.zeros(2)) == 0
    assert comparison.deviation(np.ones(2), np.zeros(2)) > 1e299
    assert np.isnan(comparison.deviation(np.array([np.nan, 1.0]), np.array([1.0, 1.0])))
