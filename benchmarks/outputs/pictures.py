"""Looks as pictures: grids of images, sheets, animations. Ink is p(x = 1|z): 0 is white and 255 black."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from benchmarks.harness import record_names
from benchmarks.harness.looks import MANIFOLD, Look
from benchmarks.outputs import figures

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["GIF", "WEBP"]  # of animations
KINDS: tuple[Kind, ...] = get_args(Kind)
TILE = 52  # pixels, about, of an image's longer side
GAP = 2  # pixels between two images
MARGIN = 14  # pixels around a picture and between its parts
PAPER, LINE, INK = 255, 232, 40  # the greys of white space, of the lines between images, and of words
TITLE, BODY = 18, 14  # pixels, of letters
GREYS = 16  # levels of an animation: more make a GIF larger and don't show
FRAME, LAST = 150, 3_000  # milliseconds that a frame and the last frame stay


def grid(images: np.ndarray, *, columns: int, tile: int = TILE, gap: int = GAP) -> Image:
    """Grey values [n, rows, columns], 255 for ink, as a grid with so many images in a row.

    A pixel becomes a square of whole pixels: nothing is smoothed. `tile`: about the longer side of an image; `gap`: the width
    of the lines between images; both in pixels.
    """
    from PIL import Image

    n, rows, width = images.shape
    columns = min(columns, n)
    scale = max(1, round(tile / max(rows, width)))
    lines = -(-n // columns)
    high, wide = rows * scale + gap, width * scale + gap
    canvas = np.full((lines * high + gap, columns * wide + gap), LINE, dtype=np.uint8)
    for i in range(lines * columns):
        top, left = i // columns * high + gap, i % columns * wide + gap
        square = PAPER - images[i].repeat(scale, axis=0).repeat(scale, axis=1) if i < n else PAPER
        canvas[top : top + rows * scale, left : left + width * scale] = square
    return Image.fromarray(canvas)


def png(image: Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def picture(look: Look, *, extent: float | None = None) -> Image:
    """Test images, reconstructions and samples, a titled grid each; with two latent dimensions also manifold and means.

    `extent`: the largest coordinate that the means' axes must hold; None: that of the means.
    """
    parts = [
        words(named(look), size=TITLE),
        words(reached(look)),
        beside(
            [
                titled("test images", squarish(look.originals)),
                titled("their reconstructions", squarish(look.reconstructions)),
                titled("samples of the prior", squarish(look.samples)),
            ]
        ),
    ]
    if look.manifold is not None and look.means is not None:
        latents = grid(look.manifold, columns=MANIFOLD, tile=TILE // 2, gap=0)
        parts.append(
            beside(
                [
                    titled("decoded quantiles of the prior (first dimension to the right, second upward)", latents),
                    titled(
                        f"posterior means of {len(look.means):,} test images", scatter(look, side=latents.height, extent=extent)
                    ),
                ]
            )
        )
    return framed(below(parts))


def comparison(looks: Sequence[Look], *, labels: Sequence[str], shown: int = 10) -> Image:
    """A row of reconstructions and samples for each look; the same test images for all, and the same draws of an equal prior.

    The looks are of one data set; `shown` images stand in a row, fewer where a look has fewer.
    """
    first = looks[0]
    rows = [grid(images[:shown], columns=shown) for images in (first.originals, *(look.reconstructions for look in looks))]
    samples = [grid(look.samples[:shown], columns=shown) for look in looks]
    names = [words(label, color=figures.OF_BACKEND[look.backend]) for label, look in zip(labels, looks, strict=True)]
    names = [words("test images"), *names]
    wide, high = max(name.width for name in names), rows[0].height
    titles = [padded(words(title), width=width) for title, width in (("", wide), ("reconstructions", rows[0].width))]
    lines = [beside([*titles, words("samples of the prior")])]
    for name, *images in zip(names, rows, [None, *samples], strict=True):
        lines.append(beside([padded(name, width=wide, height=high), *filter(None, images)]))
    return framed(below([words(f"{data_name(first)}: one model a row", size=TITLE), *lines]))


def animation(looks: Sequence[Look], *, kind: Kind) -> bytes:
    """The looks' pictures one after the other, for ever; the last one stays longer. The bytes of a GIF or WebP file.

    A GIF has GREYS greys, and where there is colour as many colours as fill a palette of 64 with them. Its comment is `told`.
    """
    reach = [float(np.abs(look.means).max()) for look in looks if look.means is not None]
    frames = [picture(look, extent=max(reach, default=None)) for look in looks]
    durations = [*[FRAME] * (len(frames) - 1), LAST]
    file = io.BytesIO()
    if kind == "WEBP":
        first, *rest = (frame.convert("RGB") for frame in frames)
        first.save(file, kind, save_all=True, append_images=rest, duration=durations, loop=0, lossless=True, method=4)
        return file.getvalue()
    palette = _palette(frames[-1])
    first, *rest = (_indexed(frame, palette) for frame in frames)
    first.save(file, kind, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True, comment=told(looks))
    return file.getvalue()


def told(looks: Sequence[Look]) -> str:
    """What an animation shows, in one line."""
    last = looks[-1]
    return f"{named(last)}, {len(looks)} frames from step {looks[0].step:,} to {reached(last)}"


def named(look: Look) -> str:
    """The model in a few words."""
    return f"{look.variational} in {look.backend}, {data_name(look)}"


def reached(look: Look) -> str:
    """The step, and the ELBO there where the run measured it."""
    elbo = "" if look.elbo is None else f", ELBO {look.elbo:.2f} nats on validation images"
    return f"step {look.step:,}{elbo}"


def _palette(image: Image) -> Image:
    """The palette of an animation's GIF, greys first, from black to white.

    Its colours are of the image's coloured pixels alone: most pixels are grey, and would leave few colours for the others.
    """
    from PIL import Image

    entries = [round(255 * i / (GREYS - 1)) for i in range(GREYS) for _ in range(3)]
    pixels = np.asarray(image.convert("RGB")).reshape(1, -1, 3)
    coloured = pixels[:, np.ptp(pixels[0], axis=1) > 0]
    if coloured.size:
        colours = Image.fromarray(np.ascontiguousarray(coloured)).quantize(64 - GREYS, Image.Quantize.MAXCOVERAGE)
        entries += colours.getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries)
    return palette


def _indexed(image: Image, palette: Image) -> Image:
    """The image in the palette's colours. A grey image has the nearest greys; Pillow's own search is only about right."""
    from PIL import Image

    if image.mode != "L":
        return image.quantize(palette=palette, dither=Image.Dither.NONE)
    nearest = image.point([round(grey * (GREYS - 1) / 255) for grey in range(256)])
    nearest.putpalette(palette.getpalette() or [])
    return nearest


def scatter(look: Look, *, side: int, extent: float | None) -> Image:
    """The posterior means as a square of so many pixels: a dot each, coloured by class where there are labels.

    Dots let others through, so that their density shows.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    assert look.means is not None
    limit = 1.05 * (extent or float(np.abs(look.means).max()))
    dpi = 100
    figure = Figure(figsize=(side / dpi, side / dpi), dpi=dpi, layout="constrained")
    axes = figure.subplots()
    right, up = look.means.T
    if look.labels is None:
        axes.scatter(right, up, s=8, color=figures.OF_BACKEND[look.backend], alpha=0.35, linewidths=0)
    else:
        classes = np.unique(look.labels)
        colours = "tab10" if len(classes) <= 10 else "turbo"
        points = axes.scatter(right, up, c=np.searchsorted(classes, look.labels), s=8, alpha=0.7, cmap=colours, linewidths=0)
        handles, _ = points.legend_elements(num=list(range(len(classes))))
        axes.legend(handles, [str(label) for label in classes], loc="upper right", fontsize=8, handletextpad=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="first dimension", ylabel="second dimension")
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return Image.open(file).convert("RGB")


def data_name(look: Look) -> str:
    """The data set in a word."""
    return record_names.data_name({"name": look.dataset, "binarize": look.binarize})


# --- the parts of a picture ---


def squarish(images: np.ndarray) -> Image:
    """A grid that is about as high as wide."""
    n, rows, width = images.shape
    return grid(images, columns=max(1, math.ceil(math.sqrt(n * rows / width))))


def words(text: str, *, size: int = BODY, color: str | int = INK) -> Image:
    """A line of text, in the font inside Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    wide, high = math.ceil(font.getlength(text)), round(1.3 * size)
    image = Image.new("L" if isinstance(color, int) else "RGB", (max(wide, 1), high), "white")
    ImageDraw.Draw(image).text((0, 0), text, fill=color, font=font)
    return image


def titled(title: str, image: Image) -> Image:
    return below([words(title), image], gap=4)


def beside(images: Sequence[Image]) -> Image:
    """The images from left to right, their tops on one line."""
    lefts = [sum(image.width + MARGIN for image in images[:i]) for i in range(len(images))]
    return _pasted(images, [(left, 0) for left in lefts])


def below(images: Sequence[Image], *, gap: int = MARGIN // 2) -> Image:
    """The images from top to bottom, their left sides on one line."""
    tops = [sum(image.height + gap for image in images[:i]) for i in range(len(images))]
    return _pasted(images, [(0, top) for top in tops])


def padded(image: Image, *, width: int, height: int = 0) -> Image:
    """The image with white space at its right, and as much above as below."""
    return _pasted([image], [(0, max(0, height - image.height) // 2)], least=(width, height))


def framed(image: Image) -> Image:
    """The image with a white margin."""
    return _pasted([image], [(MARGIN, MARGIN)], least=(image.width + 2 * MARGIN, image.height + 2 * MARGIN))


def _pasted(images: Sequence[Image], places: Sequence[tuple[int, int]], *, least: tuple[int, int] = (0, 0)) -> Image:
    """White paper that holds each image at its (left, top); in colour only where an image is."""
    from PIL import Image

    wide = max(least[0], *(left + image.width for image, (left, _) in zip(images, places, strict=True)))
    high = max(least[1], *(top + image.height for image, (_, top) in zip(images, places, strict=True)))
    paper = Image.new("RGB" if any(image.mode == "RGB" for image in images) else "L", (wide, high), "white")
    for image, place in zip(images, places, strict=True):
        paper.paste(image, place)
    return paper
