"""The estimators against exact answers: NumPy log weights of a linear-Gaussian model, whose every expectation is known."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common import estimators
from common.noise import NOISE_BLOCK

MOST = 1500  # samples an image that the model below has noise for


class LinearGaussian:
    """z ~ N(0,1), x|z ~ N(z,1), q(z|x) = N(x/2 + a·√½, ½), and so p(x) = N(0, 2) and the posterior N(x/2, ½).

    With z = x/2 + √½·(a + ε): log w = log p(x) − a·ε − a²/2. So w/p(x) is log-normal with mean 1, KL(q‖posterior) = a²/2, and
    log w has the standard deviation a.
    """

    def __init__(self, x: np.ndarray, *, a: float):
        self.x, self.a = x, a
        self.asked: list[tuple[np.ndarray, range]] = []
        self.noise: dict[int, np.ndarray] = {}

    def log_weights(self, handle: Any, indices: np.ndarray, *, samples: range, seed: int, noise: None) -> np.ndarray:
        """From the three densities themselves; noise is a function of (seed, image, sample), drawn once a seed."""
        self.asked.append((indices, samples))
        if seed not in self.noise:
            self.noise = {seed: np.random.default_rng(seed).standard_normal((MOST, len(self.x)))}
        x, draws = self.x[indices], self.noise[seed][samples.start : samples.stop, indices]
        mean = x / 2 + self.a * np.sqrt(0.5)
        z = mean + draws * np.sqrt(0.5)

        def log_normal(value: np.ndarray, mean: Any, variance: float) -> np.ndarray:
            return -0.5 * ((value - mean) ** 2 / variance + np.log(2 * np.pi * variance))

        return log_normal(z, 0, 1) + log_normal(x, z, 1) - log_normal(z, mean, 0.5)


X = np.random.default_rng(0).normal(size=50) * np.sqrt(2)
EXACT = float((-0.5 * (X**2 / 2 + np.log(2 * np.pi * 2))).mean())


def judge(model: LinearGaussian, samples: int, **changes: Any) -> estimators.Estimates:
    settings = {"seed": 0, "image_batch": 7, "sample_block": 100, "report": lambda images: None} | changes
    return estimators.estimate(model, None, images=np.arange(len(model.x), dtype=np.int32), samples=samples, **settings)  # type: ignore[arg-type]


def test_an_exact_posterior_gives_log_px_with_one_sample() -> None:
    for samples in (1, 40):
        result = judge(LinearGaussian(X, a=0), samples)
        assert abs(result.elbo - EXACT) < 1e-12
        assert abs(result.log_px - EXACT) < 1e-12
        assert abs(result.ess - samples) < 1e-9


def test_one_sample_gives_the_elbo_as_log_px() -> None:
    result = judge(LinearGaussian(X, a=0.4), 1)
    assert result.log_px == result.elbo
    assert result.log_px_se == result.elbo_se
    assert result.ess == 1


@pytest.mark.parametrize("samples", [1, 10, 1000])
def test_the_elbo_converges_as_the_root_of_all_samples(samples: int) -> None:
    """Its error is N(0, a²/(K·n)) around log p(x) − KL, over 200 seeds."""
    model = LinearGaussian(X, a=0.7)
    errors = np.array([judge(model, samples, seed=seed, image_batch=50).elbo - (EXACT - 0.7**2 / 2) for seed in range(200)])
    standard = errors / (0.7 / np.sqrt(samples * 50))
    assert abs(standard.mean()) < 4.5 / np.sqrt(200)
    assert abs((standard**2).mean() - 1) < 4.5 * np.sqrt(2 / 200)


def test_log_px_falls_short_by_half_the_variance_over_k() -> None:
    """E[log p̂] − log p = −v/2K + (μ₃/3 − ¾v²)/K² + O(K⁻³), v = e^{a²} − 1 and μ₃ the moments of w/p(x).

    E[p̂/p] is 1 exactly, so that log p̂/p − (p̂/p − 1) has the same mean and a far smaller variance.
    """
    a = 0.7
    v = np.exp(a**2) - 1
    second = (np.exp(3 * a**2) - 3 * np.exp(a**2) + 2) / 3 - 0.75 * v**2
    model = LinearGaussian(np.zeros(8_000), a=a)
    exact = -0.5 * np.log(2 * np.pi * 2)
    sizes, biases = np.array([5, 10, 20, 50, 100, 200, 400]), []
    for samples in sizes:
        blocks = estimators.stream(
            model,  # type: ignore[arg-type]
            None,
            images=np.arange(8_000),
            samples=int(samples),
            seed=int(samples),
            image_batch=4000,
            sample_block=100,
        )
        log_ratio = np.concatenate([estimators.log_mean_exp(log_w) for log_w in blocks]) - exact
        values = log_ratio - np.expm1(log_ratio)
        error = estimators.standard_error(values)
        assert abs(values.mean() + v / (2 * samples) - second / samples**2) < 4.5 * error + v**3 / samples**3
        biases.append(values.mean())
    slope = np.polyfit(np.log(sizes[2:]), np.log(-np.array(biases[2:])), 1)[0]
    assert abs(slope + 1) < 0.03


def test_the_importance_weighted_bound_is_monotone_in_k() -> None:
    """On independent noise for each K; from KL below log p(x) at K = 1 up to it."""
    model = LinearGaussian(np.zeros(2000), a=1.0)
    exact = -0.5 * np.log(2 * np.pi * 2)
    results = [judge(model, k, seed=k, image_batch=2000) for k in (1, 2, 5, 10, 30, 100, 1000)]
    for fewer, more in itertools.pairwise(results):
        assert more.log_px > fewer.log_px - 3 * np.hypot(fewer.log_px_se, more.log_px_se)
    assert all(result.log_px < exact + 4 * result.log_px_se for result in results)
    assert abs(results[0].log_px - (exact - 0.5)) < 4 * results[0].log_px_se
    assert abs(results[-1].log_px - exact) < 4 * results[-1].log_px_se + 0.001


@pytest.mark.parametrize("samples", [1, 2, 24, 25, 26, 99, 100, 101, 1000])
def test_exactly_k_samples_of_exactly_these_images(samples: int) -> None:
    model, told = LinearGaussian(X, a=0.4), []
    result = judge(model, samples, sample_block=60, report=told.append)
    assert (result.importance_samples, result.images) == (samples, 50)
    assert sum(told) == 50
    for batch in range(8):
        first = 7 * batch
        asked = [(rows, block) for rows, block in model.asked if rows[0] == first]
        # Each sample once, in order, in blocks of bounded size that each open a block of noise.
        assert [k for _, block in asked for k in block] == list(range(samples))
        assert all(len(block) <= 75 and block.start % NOISE_BLOCK == 0 for _, block in asked)
        # The last batch has the others' shape, filled up with its last image, which counts once.
        assert all(rows.tolist() == [min(first + i, 49) for i in range(7)] for rows, _ in asked)
    noise = model.noise[0][:samples]
    log_ratio = -0.4 * noise - 0.4**2 / 2
    assert abs(result.elbo - (EXACT + log_ratio.mean())) < 1e-12
    assert abs(result.log_px - (EXACT + np.log(np.exp(log_ratio).mean(0)).mean())) < 1e-12


@pytest.mark.parametrize(("samples", "sizes"), [(1, [1]), (2, [1, 2]), (10, [1, 10]), (130, [1, 10, 100, 130])])
def test_log_px_by_samples_is_that_of_the_first_samples_of_the_same(samples: int, sizes: list[int]) -> None:
    model = LinearGaussian(X, a=0.7)
    settings: dict[str, Any] = {"images": np.arange(50, dtype=np.int32), "samples": samples, "seed": 0}
    settings |= {"image_batch": 7, "sample_block": 25}
    values = estimators.per_image(model, None, **settings, report=lambda images: None)  # type: ignore[arg-type]
    asked = len(model.asked)
    log_w = np.concatenate(list(estimators.stream(model, None, **settings)), axis=1)  # type: ignore[arg-type]
    assert len(model.asked) == 2 * asked, "one pass"
    found = estimators.by_samples(values)
    assert found["samples"] == sizes
    for k, log_px, error, ess in zip(*found.values(), strict=True):
        assert ess == estimators.effective_sample_size(log_w[:k]).mean()
        of_images = estimators.log_mean_exp(log_w[:k])
        assert (log_px, error) == (of_images.mean(), estimators.standard_error(of_images))
    assert np.array_equal(values.log_px, estimators.log_mean_exp(log_w))
    assert found["log_px"][-1] == estimators.summary(values).log_px


@pytest.mark.parametrize(("image_batch", "sample_block"), [(50, 25), (1, 1), (49, 130), (1000, 1000), (3, 26)])
def test_batches_and_blocks_change_nothing(image_batch: int, sample_block: int) -> None:
    """Not a bit: given the same log weights, an image's estimate is the same sum whatever they were streamed in."""
    model = LinearGaussian(X, a=0.4)
    assert judge(model, 130, image_batch=image_batch, sample_block=sample_block) == judge(model, 130)


def test_a_single_image_has_no_standard_error() -> None:
    result = judge(LinearGaussian(X[:1], a=0.4), 30)
    assert result.images == 1
    assert np.isnan([result.elbo_se, result.log_px_se]).all()
    assert estimators.plus_minus(result.log_px_se) == "± unknown"


def test_a_single_sample_has_no_monte_carlo_error() -> None:
    result = judge(LinearGaussian(X, a=0.4), 1)
    assert np.isnan(result.log_px_mc_se)
    assert np.isfinite(result.log_px_se)


def test_far_apart_weights_do_not_overflow() -> None:
    log_w = np.array([[-1e5, 800.0], [-1e5 + np.log(3), -800.0]])
    assert np.allclose(estimators.log_mean_exp(log_w), [-1e5 + np.log(2), 800 - np.log(2)])
    assert np.allclose(estimators.effective_sample_size(log_w), [16 / 10, 1])


def test_float32_weights_are_averaged_in_float64() -> None:
    model = LinearGaussian(X, a=0.4)
    low = LinearGaussian(X, a=0.4)
    low.log_weights = lambda *args, **kwargs: model.log_weights(*args, **kwargs).astype(np.float32)  # type: ignore[method-assign]
    blocks = list(
        estimators.stream(low, None, images=np.arange(50), samples=30, seed=0, image_batch=20, sample_block=25)  # type: ignore[arg-type]
    )
    assert all(block.dtype == np.float64 for block in blocks)
    assert abs(judge(low, 1000).log_px - judge(model, 1000).log_px) < 1e-6


def test_the_standard_error_is_that_of_the_mean() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 50)) * 3
    errors = [estimators.standard_error(row) for row in draws]
    assert abs(np.mean(errors) / draws.mean(1).std() - 1) < 0.1


def estimates_of(nested: list[float], *, elbo: float = -91.0, spread: float = 0.1, ess: float = 5.0) -> estimators.PerImage:
    """Estimates of 100 images around these log p(x) at K = 1, 10, 100 …; images differ by nats, their gains by `spread`."""
    draws = np.random.default_rng(0)
    of_image, sizes = draws.normal(size=100) * 20, [10**i for i in range(len(nested))]
    rows = [value + (of_image - of_image.mean()) + spread * draws.normal(size=100) for value in nested]
    shape = (len(sizes), 100)
    return estimators.PerImage(
        image=np.arange(100),
        elbo=np.full(100, elbo),
        sizes=sizes,
        nested=np.array(rows),
        ess=np.full(shape, ess),
        nested_error=np.zeros(shape),
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (estimates_of([-91, -90, -89]), None),
        (estimates_of([-91, -90.01, -90.03]), None),  # within what chance does
        (estimates_of([-91, -90, -90.2]), "falls by 0.[12]. nats from K = 10 to 100"),
        (estimates_of([-91, -90, -90.07]), "falls by 0.0[4-9] nats from K = 10 to 100"),  # five standard errors
        (estimates_of([-91, -91.5, -90]), "falls by 0.[45]. nats from K = 1 to 10"),
        (estimates_of([-92.5, -92, -91.5]), "below the ELBO -91.00"),
        (estimates_of([-91, -80, -76.5]), "above -77 nats"),
        (estimates_of([-91, -90, -89], ess=1.4), "effective sample size is 1.4 of 100: log p.x. is too low"),
        (estimates_of([-91, -90], ess=1.4), None),  # of ten samples, few can count
    ],
)
def test_estimates_that_contradict_what_they_are_are_told(values: estimators.PerImage, said: str | None) -> None:
    warning = estimators.warning(values, of=100, highest=-77.0)
    assert warning is None if said is None else re.search(said, warning or ""), warning


def test_no_highest_log_px_is_assumed_of_other_data() -> None:
    assert estimators.warning(estimates_of([-30, -20]), of=100, highest=None) is None


def test_a_high_log_px_of_some_of_the_images_can_be_chance() -> None:
    """The mean of 100 of 10,000 images with a standard error of 2 nats, 1.5 and 7 nats above the highest."""
    assert estimators.warning(estimates_of([-91, -75.5]), of=10_000, highest=-77.0) is None
    assert "above -77 nats" in (estimators.warning(estimates_of([-91, -70]), of=10_000, highest=-77.0) or "")
    assert "above -77 nats" in (estimators.warning(estimates_of([-91, -75.5]), of=100, highest=-77.0) or "")


@pytest.mark.parametrize("images", [1, 2, 9])
def test_a_few_images_of_a_sound_model_are_not_warned_of(images: int) -> None:
    """Of so few images log p(x) often falls from one K to the next by several of its standard errors."""
    for seed in range(100):
        values = estimators.per_image(
            LinearGaussian(X[:images], a=1.0),  # type: ignore[arg-type]
            None,
            images=np.arange(images, dtype=np.int32),
            samples=100,
            seed=seed,
            image_batch=7,
            sample_block=100,
            report=lambda images: None,
        )
        assert estimators.warning(values, of=len(X), highest=None) is None


@pytest.mark.parametrize("a", [0.0, 0.5, 1.5])
def test_a_sound_model_is_not_warned_of(a: float) -> None:
    values = estimators.per_image(
        LinearGaussian(X, a=a),  # type: ignore[arg-type]
        None,
        images=np.arange(len(X), dtype=np.int32),
        samples=1000,
        seed=0,
        image_batch=7,
        sample_block=100,
        report=lambda images: None,
    )
    assert estimators.warning(values, of=len(X), highest=None) is None


# --- three errors: over images, over importance samples, over seeds ---

ROUNDS = 400


def coverage(values: np.ndarray, errors: np.ndarray, truth: float, *, freedom: float = np.inf) -> float:
    """The share of the intervals value ± t·error, of 95 %, that hold the truth."""
    return float((np.abs(values - truth) < stats.t.ppf(0.975, freedom) * errors).mean())


def within_chance(share: float) -> bool:
    return abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / ROUNDS)


def test_the_error_over_images_covers_what_other_images_would_say() -> None:
    """Images drawn anew each round; the truth is the mean of log p(x) over all images, and the posterior is exact."""
    draws = np.random.default_rng(0)
    found = [judge(LinearGaussian(np.sqrt(2) * draws.normal(size=50), a=0), 1, image_batch=50) for _ in range(ROUNDS)]
    truth = -0.5 * (1 + np.log(2 * np.pi * 2))
    values, errors = (np.array([getattr(each, name) for each in found]) for name in ("log_px", "log_px_se"))
    assert within_chance(coverage(values, errors, truth, freedom=49))


@pytest.mark.parametrize("a", [0.3, 1.0])
def test_the_monte_carlo_error_covers_what_other_samples_would_say(a: float) -> None:
    """The same images and model each round, other noise. The truth is the mean of what K samples say, below log p(x)."""
    model = LinearGaussian(X, a=a)
    found = [judge(model, 1000, seed=seed, image_batch=50) for seed in range(ROUNDS)]
    values, errors = (np.array([getattr(each, name) for each in found]) for name in ("log_px", "log_px_mc_se"))
    assert within_chance(coverage(values, errors, values.mean()))
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)
    assert found[0].log_px_se > 5 * errors.mean(), "the two errors are of one size here, and could be confused"


def test_the_error_over_seeds_covers_what_other_seeds_would_say() -> None:
    """Five seeds a round, whose log p(x) are normal: the interval is Student's with four degrees of freedom."""
    values = np.random.default_rng(1).normal(-88.7, 0.05, size=(ROUNDS, 5))
    errors = np.array([estimators.standard_error(row) for row in values])
    assert within_chance(coverage(values.mean(1), errors, -88.7, freedom=4))
    assert not within_chance(coverage(values.mean(1), errors, -88.7)), "the normal's interval would do"


def test_the_jackknife_is_its_definition() -> None:
    log_w = np.random.default_rng(0).normal(size=(7, 3)) * np.array([0.5, 3, 40])
    without = np.stack([estimators.log_mean_exp(np.delete(log_w, k, axis=0)) for k in range(7)])
    expected = np.sqrt(6 / 7 * np.square(without - without.mean(0)).sum(0))
    assert np.allclose(estimators.log_mean_exp_error(log_w), expected, rtol=1e-10)
    assert np.isnan(estimators.log_mean_exp_error(log_w[:1])).all()
    same = np.zeros((4, 2))
    assert np.allclose(estimators.log_mean_exp_error(same), 0, atol=1e-12)
