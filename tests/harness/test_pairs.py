"""A difference of two runs is that of the same images where both have them, and its error is that of the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import pairs, presets, record_names, record_schema
from benchmarks.harness.record_schema import Record
from common import estimators
from common.config import Config
from common.errors import UserError

IMAGE = np.arange(400)
RNG = np.random.default_rng(0)
HARD = RNG.normal(-90, 15, 400)  # an image's own difficulty, which two models share


def scores(shift: float, *, image: np.ndarray = IMAGE) -> dict[str, np.ndarray]:
    """Results by image; each run has noise of its own, 0.5 nats an image."""
    noise = RNG.normal(0, 0.5, (2, len(image)))
    return {"image": image, "elbo": HARD[image] - 5 + shift + noise[0], "log_px": HARD[image] + shift + noise[1]}


def run(found: dict[str, np.ndarray], **test: Any) -> Record:
    record = record_schema.blank(Config(), backend="jax", dataset_name="d", dataset_sha256="ab", preset="quick")
    record |= {"status": "ok", "reason": None}
    for name in pairs.QUANTITIES:
        record["test"] |= {name: found[name].mean(), f"{name}_se": estimators.standard_error(found[name])}
    record["test"] |= {"importance_samples": 100, "images": len(found["image"])} | test
    record["timing"] |= {"examples_per_s": 1000.0, "examples_per_s_iqr": 100.0}
    return record


def test_pairs_of_images_tell_what_means_cannot() -> None:
    a, b = scores(0), scores(0.3)
    found = pairs.difference(run(a), run(b), scores=(a, b))
    apart = pairs.difference(run(a), run(b), scores=(a, None))
    for name in pairs.QUANTITIES:
        of_images = b[name] - a[name]
        assert found[name].mean == pytest.approx(of_images.mean())
        assert found[name].error == pytest.approx(of_images.std(ddof=1) / 20)
        assert (found[name].images, found[name].paired, found[name].beyond_noise) == (400, True, True)
        assert apart[name].mean == pytest.approx(found[name].mean)
        assert apart[name].error == pytest.approx(np.hypot(a[name].std(ddof=1), b[name].std(ddof=1)) / 20)
        assert (apart[name].images, apart[name].paired, apart[name].beyond_noise) == (None, False, False)


def test_the_error_is_that_of_the_difference() -> None:
    """Of 1,000 pairs of equal models, 4.6 % differ by two errors or more."""
    found = []
    for _ in range(1000):
        a, b = scores(0), scores(0)
        found.append(pairs.difference(run(a), run(b), scores=(a, b))["elbo"])
    assert 0.02 < np.mean([difference.beyond_noise for difference in found]) < 0.08


def test_only_images_that_both_scored_are_paired_in_any_order() -> None:
    a, b = scores(0), scores(0, image=np.array([7, 3, 399, 5]))
    found = pairs.difference(run(a), run(b), scores=(a, b))["log_px"]
    assert found.images == 4
    of_images = b["log_px"] - a["log_px"][b["image"]]
    assert (found.mean, found.error) == (pytest.approx(of_images.mean()), pytest.approx(of_images.std(ddof=1) / 2))
    one = scores(0, image=np.array([7]))
    assert not pairs.difference(run(a), run(one), scores=(a, one))["log_px"].paired, "one pair has no error"
    assert pairs.difference(run(a), run(one), scores=(a, one))["log_px"].beyond_noise is None


def test_equal_results_do_not_differ() -> None:
    a = scores(0)
    found = pairs.difference(run(a), run(a), scores=(a, a))["elbo"]
    assert (found.mean, found.error, found.beyond_noise) == (0, 0, False)


def test_an_older_record_without_an_error_is_judged_neither_way() -> None:
    a, b = scores(0), scores(50)
    found = pairs.difference(run(a, elbo_se=None), run(b), scores=(None, None))
    assert (found["elbo"].error, found["elbo"].beyond_noise) == (None, None)
    assert found["log_px"].beyond_noise


def test_another_k_leaves_log_px_out() -> None:
    a, b = scores(0), scores(0)
    assert pairs.difference(run(a), run(b, importance_samples=1000), scores=(a, b)).keys() == {"elbo"}


def test_other_data_and_runs_without_a_result_are_refused() -> None:
    a = scores(0)
    other = run(a)
    other["dataset"] = {"name": "e", "sha256": "cd"}
    with pytest.raises(UserError, match="two data sets, d and e"):
        pairs.difference(run(a), other, scores=(a, a))
    with pytest.raises(UserError, match="no result"):
        pairs.difference(run(a), run(a, elbo=None) | {"status": "failed", "reason": "It fell over."}, scores=(a, a))


@pytest.mark.parametrize(("second", "beyond"), [((1100.0, 100.0), False), ((1101.0, 100.0), True), ((2000.0, None), None)])
def test_speeds_differ_where_their_middle_halves_are_apart(second: tuple[float, float | None], beyond: bool | None) -> None:
    a = scores(0)
    other = run(a)
    other["timing"] |= dict(zip(("examples_per_s", "examples_per_s_iqr"), second, strict=True))
    found = pairs.speeds(run(a), other)
    assert found is not None
    assert (found.ratio, found.beyond_spread) == (second[0] / 1000, beyond)
    other["timing"]["examples_per_s"] = None
    assert pairs.speeds(run(a), other) is None


# Which runs are pairs


def found(folder: str, *runs: Record) -> dict[Path, Record]:
    return {Path(folder) / record_names.name_of(record): record for record in runs}


def model(*, backend: str = "jax", **settings: Any) -> Record:
    config = presets.QUICK.replace(**settings)
    return record_schema.blank(config, backend=backend, dataset_name="d", dataset_sha256="ab", preset="quick")


def test_runs_of_equal_names_are_pairs_and_the_others_are_left_over() -> None:
    first = found("a", model(), model(seed=1), model(seed=2))
    second = found("b", model(seed=1), model(seed=2), model(seed=3))
    match = pairs.matching(first, second)
    assert [(a.parent.name, b.parent.name, a.name == b.name) for a, b in match.pairs] == [("a", "b", True)] * 2
    assert (match.keys, match.labels, match.apart) == (["seed"], [[1], [2]], {})
    assert [[record_names.name_of(model(seed=seed)) for seed in (each,)] for each in (0, 3)] == [
        [path.name for path in paths] for paths in match.left_over
    ]


def test_what_all_runs_of_a_side_have_and_none_of_the_other_does_not_count() -> None:
    def side(folder: str, **settings: Any) -> dict[Path, Record]:
        runs = (model(variational=family, seed=seed, **settings) for family in ("flow", "mean-field") for seed in (0, 1))
        return found(folder, *runs)

    match = pairs.matching(side("a"), side("b", learning_rate=0.1, steps=30_000, backend="pytorch"))
    assert len(match.pairs) == 4
    for a, b in match.pairs:
        assert a.name.split("_")[3:] == b.name.split("_")[3:]
    assert match.keys == ["family", "seed"]
    assert match.apart == {
        "backend": ("jax", "pytorch"),
        "learning-rate": (1e-3, 0.1),
        "steps": (2000, 30_000),
        "compile-from": (False, True),
    }


def test_runs_on_two_data_sets_of_one_name_are_told_apart() -> None:
    of_each = [model() | {"dataset": {"name": "d.h5", "sha256": sha256, "binarize": None}} for sha256 in ("ab" * 32, "cd" * 32)]
    match = pairs.matching(found("a", *of_each), found("b", *of_each))
    assert [a.name == b.name for a, b in match.pairs] == [True, True]
    assert match.labels == [["d-ababab"], ["d-cdcdcd"]]


def test_two_single_runs_are_a_pair_whatever_they_are() -> None:
    match = pairs.matching(found("a", model()), found("b", model(backend="pytorch", variational="flow", latent_size=2)))
    assert len(match.pairs) == 1
    assert (match.keys, match.left_over) == ([], ([], []))


def test_a_single_run_finds_its_like_in_a_folder() -> None:
    match = pairs.matching(found("a", model(steps=9)), found("b", *(model(backend=name) for name in ("pytorch", "jax"))))
    ((_, b),) = match.pairs
    assert "_jax_" in b.name


def test_no_counterpart_is_said() -> None:
    with pytest.raises(UserError, match="counterpart"):
        pairs.matching(found("a", model(seed=0), model(seed=1)), found("b", model(seed=2), model(seed=3)))


def test_everything_in_which_two_runs_differ_is_named() -> None:
    first, second = model(), model(learning_rate=0.1)
    for record, commit, jax, load in ((first, "a", "0.1", 0.5), (second, "b", "0.2", 9.0)):
        record["environment"] = {"commit": commit * 40, "dirty": False, "versions": {"jax": jax, "numpy": "2"}, "load": load}
        record["environment"] |= {"machine": {"cpu": "EPYC"}, "threads": {"cores": 2, "variables": {}}}
    second["environment"]["threads"] = {"cores": 4, "variables": {"OMP_NUM_THREADS": "1"}}
    assert pairs.apart(first, second) == {
        "learning-rate": (1e-3, 0.1),
        "commit": ("a" * 12, "b" * 12),
        "cores": (2, 4),
        "load before training": (None, "9.0"),
        "jax": ("0.1", "0.2"),
        "OMP_NUM_THREADS": (None, "1"),
    }
    assert pairs.apart(first, first) == {}
