"""Looks as pictures: grids of images, sheets, animations. Ink is p(x = 1|z): 0 is white and 255 black."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 52  # pixels, about, of an image's longer side
GAP = 2  # pixels between two images
PAPER, LINE = 255, 232  # the greys of white space and of the lines between images


def grid(images: np.ndarray, *, columns: int) -> Image:
    """Grey values [n, rows, columns], 255 for ink, as a grid with so many images in a row.

    A pixel becomes a square of whole pixels: nothing is smoothed.
    """
    from PIL import Image

    n, rows, width = images.shape
    columns = min(columns, n)
    scale = max(1, round(TILE / max(rows, width)))
    lines = -(-n // columns)
    high, wide = rows * scale + GAP, width * scale + GAP
    canvas = np.full((lines * high + GAP, columns * wide + GAP), LINE, dtype=np.uint8)
    for i in range(lines * columns):
        top, left = i // columns * high + GAP, i % columns * wide + GAP
        tile = PAPER - images[i].repeat(scale, axis=0).repeat(scale, axis=1) if i < n else PAPER
        canvas[top : top + rows * scale, left : left + width * scale] = tile
    return Image.fromarray(canvas)


def png(image: Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
