"""The source of every random number of the suite: named streams, and noise that the frameworks can share."""

from __future__ import annotations

import math
import statistics
import zlib

import numpy as np

# Evaluation noise is drawn in blocks of this many samples an image. A constant of the protocol: another value is other noise.
NOISE_BLOCK = 25

# The streams, each with the position that follows its name. Another name is other draws: a name never changes.
TRAINING_NOISE = "training noise"  # step
EVALUATION_NOISE = "evaluation noise"  # image, block of samples
VALIDATION = "validation"  # gives the seed of a run's validation noise
TEST = "test"  # gives the seed of a run's test noise
DATA_ORDER = "data order"  # epoch
SUBSET = "subset"  # the test images of --images
BINARIZATION = "binarization"  # split, from 0: the draws of --binarize bernoulli
ARRAY_SPLIT = "split of an array"  # which images of an .npy file are valid and test
CHECKPOINTS_NOISE = "cross-evaluation noise"  # of `parity --checkpoints`
PREVIEWS = "previews"  # the latents and noise of the images that a run tells while it trains
GALLERY = "gallery"  # the prior's draws in pictures
PICTURED = "pictured test images"  # the order in which test images are chosen for pictures
RECONSTRUCTION = "reconstruction"  # the posterior's draws behind the pictured reconstructions
POSTERIOR = "posterior"  # the posterior's draws behind KL and active dimensions
ANNEALING = "annealing"  # image: the chains of annealed importance sampling
ANNEALING_SIZES = "annealing's step sizes"  # image: the chains that tune them
ANNEALING_DOWN = "annealing from above"  # image: the chains from a posterior's draw
SIMULATED = "simulated images"  # the latents and pixels of images that the model draws
LOCAL_POSTERIOR = "local posterior"  # image: the noise of q's own optimisation
GAPS = "gaps"  # image: the noise that both posteriors' ELBOs are judged on
LADDER_START = "ladder's start"
LADDER_FORWARD = "ladder's forward noise"
LADDER_EVALUATION = "ladder's evaluation noise"


def initial_values(parameter: str) -> str:
    """The stream of this parameter's initial values."""
    return f"initial {parameter}"


def sequence(seed: int, stream: str, *position: int) -> np.random.SeedSequence:
    """The seed of one draw: a hash of the run's seed, the stream's name and the position in the stream (a step, an epoch …)."""
    return np.random.SeedSequence((seed, zlib.crc32(stream.encode()), *position))


def seed_for(seed: int, stream: str, *position: int) -> int:
    """`sequence` as 32 bits, the seed of a framework's own generator."""
    return int(sequence(seed, stream, *position).generate_state(1)[0])


def generator(seed: int, stream: str, *position: int) -> np.random.Generator:
    """A NumPy Philox generator, seeded by `sequence`."""
    return np.random.Generator(np.random.Philox(sequence(seed, stream, *position)))


def training_noise(*, seed: int, first_step: int, steps: int, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Standard normal draws [steps, samples, batch, draws] for steps first_step …, each a function of (seed, step) alone."""
    draws = [generator(seed, TRAINING_NOISE, first_step + t).standard_normal(shape) for t in range(steps)]
    return np.stack(draws).astype(dtype)


def dropped_below(rate: float) -> float:
    """Φ⁻¹(rate), below which a standard normal draw drops its unit: that is, with probability `rate`."""
    return statistics.NormalDist().inv_cdf(rate) if rate else -math.inf


def noise_blocks(samples: range) -> range:
    """The evaluation noise blocks that hold these samples; the first sample must open a block.

    Raises `ValueError` for samples that don't start a block or aren't consecutive.
    """
    if samples.step != 1 or samples.start % NOISE_BLOCK or len(samples) == 0:
        raise ValueError(f"{samples} must be consecutive samples from a multiple of {NOISE_BLOCK}")
    return range(samples.start // NOISE_BLOCK, -(-samples.stop // NOISE_BLOCK))
