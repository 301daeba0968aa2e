"""A finding is said where the numbers carry it: a difference beyond its noise, a speed beyond its spread, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.harness import presets, record_schema
from benchmarks.outputs import findings
from benchmarks.outputs.findings import Scored

MACHINE = {"cpu": "EPYC", "vectors": None, "gpu": None, "logical_cores": 2}


def run(
    backend: str,
    log_px: float,
    *,
    rate: float = 1000.0,
    family: Any = "flow",
    seed: int = 0,
    sha256: str = "ab",
    **settings: Any,
) -> Scored:
    """A finished run, and results of 100 images with one pattern of hard images: in pairs ± 0.002 nats, unpaired ± 0.7."""
    config = presets.QUICK.replace(variational=family, seed=seed, **settings)
    made = record_schema.blank(config, backend=backend, dataset_name="digits", dataset_sha256=sha256, preset="quick")
    made |= {"status": "ok", "reason": None}
    made["environment"] |= {"machine": MACHINE, "threads": {"cores": 2}}
    made["timing"] |= {"examples_per_s": rate, "examples_per_s_iqr": 20.0}
    made["test"] |= {"elbo": log_px - 1, "elbo_se": 0.5, "log_px": log_px, "log_px_se": 0.5, "images": 100}
    made["test"] |= {"importance_samples": 1000}
    own = np.random.default_rng(sum(map(ord, f"{backend}{family}{settings}"))).normal(scale=0.01, size=100)
    scores = (log_px + np.linspace(-5, 5, 100) + own - own.mean()).astype(np.float32)
    images = {"image": np.arange(100, dtype=np.int32), "elbo": scores, "log_px": scores}
    return Scored(made, images, "digits" if sha256 == "ab" else f"digits-{sha256}")


def unpaired(scored: Scored) -> Scored:
    return scored._replace(scores=None)


def said(*found: Scored) -> list[str]:
    return [finding.sentence for finding in findings.of(found)]


def test_the_fastest_backend_is_named_with_its_ratio() -> None:
    (sentence,) = said(run("pytorch", -20, rate=1000), run("jax", -20, rate=1900), run("tensorflow", -20, rate=1500))
    assert sentence.startswith(
        "JAX trains 1.9 times as many examples a second as PyTorch here; the three agree within 0.00 nats"
    )
    (sentence,) = said(run("pytorch", -20, rate=1000), run("tensorflow", -20, rate=1100))
    assert sentence.startswith("TensorFlow trains 10% more examples a second than PyTorch here; the two agree")


def test_speeds_within_their_spread_are_equal() -> None:
    (sentence,) = said(run("pytorch", -20, rate=1000), run("jax", -20, rate=1019))
    assert sentence.startswith("The two train equally fast, within the spread of their chunks;")
    (sentence,) = said(run("pytorch", -20, rate=1000), run("jax", -20, rate=1021))
    assert sentence.startswith("JAX trains 2% more")


def test_speeds_on_two_machines_are_not_compared() -> None:
    other = run("jax", -20, rate=5000)
    other[0]["environment"] |= {"machine": MACHINE | {"cpu": "Xeon"}}
    (sentence,) = said(run("pytorch", -20), other)
    assert "second" not in sentence


def test_a_speed_beside_other_programs_is_not_compared() -> None:
    beside = run("jax", -20, rate=5000)
    beside[0]["environment"]["runnable"] = 9.0
    agreement, reason = said(run("pytorch", -20), beside)
    assert "second" not in agreement
    assert reason == "Other programs used the machine's cores beside 1 of 2 runs: such speeds aren't compared."


@pytest.mark.parametrize(("paired", "noise"), [(True, False), (False, True)])
def test_a_difference_is_noise_by_its_own_error(paired: bool, noise: bool) -> None:
    found = [run("pytorch", -20.12), run("jax", -20.0)]
    (sentence,) = said(*(found if paired else map(unpaired, found)))
    assert ("agree within 0.12 nats of log p(x), which is noise" in sentence) == noise
    assert ("log p(x) of JAX is 0.12 ± 0.00 nats above that of PyTorch, more than noise" in sentence) != noise
    assert ("with one seed each, the seeds can be the reason" in sentence) != noise
    assert ("pairs of test images" in sentence) == paired


def test_with_several_seeds_noise_is_that_of_the_seeds() -> None:
    near = [run("pytorch", -20 + 0.1 * seed, seed=seed) for seed in range(3)]
    (sentence,) = said(*near, *(run("jax", -19.9 + 0.1 * seed, seed=seed) for seed in range(3)))
    assert "agree within 0.10 nats of log p(x), which is noise (its standard error over seeds is 0.08)" in sentence
    (sentence,) = said(*near, *(run("jax", -19 + 0.1 * seed, seed=seed) for seed in range(3)))
    assert "log p(x) of JAX is 1.00 ± 0.08 nats above that of PyTorch, more than noise over seeds." in sentence


def test_two_seeds_are_little_evidence() -> None:
    """Three standard errors over two seeds each: Student's t with two degrees of freedom asks for 4.3."""
    found = [
        run(backend, base + gap, seed=seed)
        for backend, base in (("pytorch", -20), ("jax", -19.58))
        for seed, gap in enumerate((0, 0.2))
    ]
    assert "agree within 0.42 nats of log p(x), which is noise (its standard error over seeds is 0.14)" in said(*found)[0]
    assert (
        "more than noise over seeds" in said(*found[:2], *(run("jax", -19 + gap, seed=i) for i, gap in enumerate((0, 0.2))))[0]
    )


def test_a_backend_that_cannot_be_compared_is_not_among_those_that_agree() -> None:
    seeds = [run(name, -20 + 0.01 * seed, seed=seed) for name in ("pytorch", "jax") for seed in range(3)]
    (sentence,) = said(*seeds, run("tensorflow", -25))
    assert "PyTorch and JAX agree within 0.00 nats" in sentence
    assert "three agree" not in sentence


def test_two_data_sets_of_one_name_have_a_finding_each() -> None:
    pairs = [run(name, log_px, sha256=sha256) for sha256, log_px in (("ab", -20), ("cd", -25)) for name in ("pytorch", "jax")]
    assert len(said(*pairs)) == 2


def test_many_pairs_share_one_chance_of_error() -> None:
    """2.2 standard errors are beyond the noise of one pair, and within that of the largest of three."""
    gap = 2.2 * np.hypot(0.5, 0.5)
    two = [unpaired(run("pytorch", -20)), unpaired(run("jax", -20 + gap))]
    assert "more than noise" in said(*two)[0]
    assert "which is noise" in said(*two, unpaired(run("tensorflow", -20)))[0]


def test_nothing_is_said_of_one_run_or_of_runs_that_cannot_be_compared() -> None:
    failed = run("jax", -20)
    failed[0]["status"] = "failed"
    other = run("jax", -20)
    other[0]["dataset"] = {"name": "digits", "sha256": "cd"}
    assert said() == said(failed) == said(run("pytorch", -20)) == []
    assert said(run("pytorch", -20), failed) == said(run("pytorch", -20), other) == []


def test_a_copy_in_another_folder_is_no_other_seed() -> None:
    first, second = (run("pytorch", -20)._replace(folder=folder) for folder in "ab")
    other = run("jax", -20.12)._replace(folder="a")
    assert "over pairs of test images" in said(first, second, other)[0]


def test_the_flows_gain_is_said_where_every_backend_has_it() -> None:
    found = [run(backend, -20, family="mean-field") for backend in ("pytorch", "jax")]
    found += [run("pytorch", -18.4), run("jax", -18.3)]
    assert "The flow's log p(x) is 1.60 to 1.70 nats above the mean-field posterior's in PyTorch and JAX" in said(*found)[0]
    assert not any("flow's" in sentence for sentence in said(*found[:2], found[2], run("jax", -20.1)))


def test_the_best_of_several_settings_is_named_with_those_as_good() -> None:
    sizes = {8: -20.0, 16: -19.0, 32: -19.0005, 64: -21.0}
    (sentence,) = said(*(run("jax", log_px, latent_size=size) for size, log_px in sizes.items()))
    assert sentence == (
        "The highest log p(x) is -19.00 (quick, preset's settings, JAX flow); 1 of the 3 other models is within noise of it."
    )


def test_the_best_of_two_is_held_against_the_other_and_never_against_none() -> None:
    one, other = run("jax", -19.0, latent_size=8), run("jax", -21.0, latent_size=16)
    assert said(one, other)[0].endswith("; the other model is not within noise of it.")
    two_seeds = [run("jax", -19.0, latent_size=8, seed=seed) for seed in (0, 1)]
    assert said(*two_seeds, other) == [], "one seed beside two has no standard error over seeds"


def test_models_that_cannot_be_compared_with_the_best_are_counted() -> None:
    alone = unpaired(run("jax", -22, learning_rate=0.2))
    alone.record["test"] |= {"log_px_se": None}
    sentence = next(each for each in said(run("jax", -20), run("jax", -21, learning_rate=0.1), alone) if "highest" in each)
    assert sentence.endswith("one other model is not within noise of it; 1 more can't be compared with it.")


def test_many_setups_are_counted() -> None:
    rates = np.geomspace(1e-4, 1e-3, 7).tolist()
    found = [
        run(backend, -20, rate=rate, learning_rate=each) for each in rates for backend, rate in (("pytorch", 1e3), ("jax", 2e3))
    ]
    assert said(*found)[0] == (
        "Of 7 setups JAX trains fastest in 7, at 2.0 to 2.0 times the speed of the slowest; log p(x) differs by no more than "
        "noise in 7 of 7 (where nothing differs, 1 in 20 would by chance)."
    )
