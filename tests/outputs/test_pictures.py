"""A picture's pixels are the look's grey values; an animation has a frame a look and ends in the last look's picture."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.harness.looks import MANIFOLD, Look
from benchmarks.outputs import pictures
from benchmarks.outputs.pictures import GAP, MARGIN, grid

FIGURES = Path(__file__).parents[2] / "docs/figures"
DRAWS = np.random.default_rng(0)


def look(**changes: Any) -> Look:
    images = {name: DRAWS.integers(0, 256, (n, 3, 4), dtype=np.uint8) for name, n in NUMBERS.items()}
    return Look(
        **{"backend": "jax", "variational": "flow", "preset": "quick", "dataset": "/a/mine.h5", "step": 1200, "elbo": -9.5}
        | {"image_shape": (3, 4), "kl": np.ones(4), "active": 3}
        | images
        | changes
    )


NUMBERS = {"originals": 7, "reconstructions": 7, "samples": 5}


def of_two_dimensions(**changes: Any) -> Look:
    manifold = DRAWS.integers(0, 256, (MANIFOLD**2, 3, 4), dtype=np.uint8)
    return look(manifold=manifold, means=DRAWS.normal(size=(200, 2)), **changes)


def placed(image: Image.Image, part: Image.Image, *, left: int) -> list[int]:
    """The heights at which the part stands in the image, at this distance from its left side."""
    whole, inner = np.asarray(image.convert("L")), np.asarray(part)
    strip = whole[:, left : left + part.width]
    return [top for top in range(len(strip) - part.height + 1) if np.array_equal(strip[top : top + part.height], inner)]


def test_a_pixel_is_a_square_of_its_grey() -> None:
    images = look().samples
    picture = np.asarray(grid(images, columns=3))
    side = (picture.shape[1] - GAP) // 3 - GAP
    scale = side // 4
    assert (scale, side % 4) == (13, 0)
    for i, image in enumerate(images):
        top, left = GAP + i // 3 * (3 * scale + GAP), GAP + i % 3 * (side + GAP)
        square = picture[top : top + 3 * scale, left : left + side]
        assert np.array_equal(square, 255 - np.kron(image, np.ones((scale, scale), np.uint8)))
    assert (picture[GAP + 3 * scale + GAP : -GAP, -side - GAP : -GAP] == 255).all(), "the sixth place is empty"
    assert np.array_equal(Image.open(io.BytesIO(pictures.png(grid(images, columns=3)))), picture)


def test_the_picture_holds_each_grid() -> None:
    seen = look()
    picture = pictures.picture(seen)
    assert picture.mode == "L"
    left = MARGIN
    for images in (seen.originals, seen.reconstructions, seen.samples):
        part = pictures.squarish(images)
        assert len(placed(picture, part, left=left)) == 1
        left += part.width + MARGIN


def test_a_comparison_has_a_row_for_each_model_in_the_backends_colour() -> None:
    first = look(backend="jax")
    second = dataclasses.replace(look(backend="pytorch"), originals=first.originals)
    sheet = pictures.comparison([first, second], labels=["a", "bb"], shown=4)
    left = MARGIN + max(pictures.words(text).width for text in ("a", "bb", "test images")) + MARGIN
    tops = [placed(sheet, grid(images[:4], columns=4), left=left) for images in
            (first.originals, first.reconstructions, second.reconstructions)]  # fmt: skip
    assert [len(top) for top in tops] == [1, 1, 1]
    assert sorted(tops) == tops
    colours = {colour for _, colour in sheet.getcolors(1 << 16)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours


@pytest.mark.parametrize("labels", [None, np.arange(200) % 12])
def test_two_dimensions_show_the_manifold_and_the_means(labels: np.ndarray | None) -> None:
    seen = of_two_dimensions(labels=labels)
    picture = pictures.picture(seen)
    latents = grid(seen.manifold, columns=MANIFOLD, tile=pictures.TILE // 2, gap=0)
    assert len(placed(picture, latents, left=MARGIN)) == 1
    right = np.asarray(picture)[-latents.height - MARGIN :, MARGIN + latents.width :].astype(int)
    assert (np.ptp(right, axis=2) > 50).sum() > 500, "dots in colour"


@pytest.mark.parametrize("make", [look, of_two_dimensions])
@pytest.mark.parametrize("kind", pictures.KINDS)
def test_an_animation_has_a_frame_for_each_look_and_ends_in_the_last_picture(make: Any, kind: pictures.Kind) -> None:
    frames = [make(step=step) for step in (0, 10, 20)]
    animation = Image.open(io.BytesIO(pictures.animation(frames, kind=kind)))
    assert (animation.format, animation.n_frames, animation.info["loop"]) == (kind, 3, 0)
    durations = []
    for i in range(3):
        animation.seek(i)
        animation.load()
        durations.append(animation.info["duration"])
    assert durations == [pictures.FRAME, pictures.FRAME, pictures.LAST]
    extent = max((float(np.abs(each.means).max()) for each in frames if each.means is not None), default=None)
    expected = np.asarray(pictures.picture(frames[-1], extent=extent).convert("RGB")).astype(int)
    found = np.asarray(animation.convert("RGB")).astype(int)
    step = 255 / (pictures.GREYS - 1)
    bound = 0 if kind == "WEBP" else step / 2 if np.ptp(expected, axis=2).max() == 0 else 3 * step  # colours share the palette
    assert np.abs(found - expected).max() <= bound


def test_the_readmes_animation_is_small_and_its_caption_is_its_own() -> None:
    path = FIGURES / "training.gif"
    assert path.stat().st_size < 2_000_000
    readme = " ".join((FIGURES.parents[1] / "README.md").read_text().split())
    with Image.open(path) as animation:
        assert f"({path.relative_to(FIGURES.parents[1])})" in readme
        assert animation.info["comment"].decode() in readme
        assert f" {animation.n_frames} frames" in readme
