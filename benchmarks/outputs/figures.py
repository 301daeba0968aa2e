"""Shared by all figures: a colour for each backend, and writing the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import write_whole
from common.protocol import BACKENDS

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito: distinct for colour-blind readers, too
OF_BACKEND = dict(zip(BACKENDS, COLOURS, strict=False))


def save(figure: Any, path: Path, *, dpi: int = 110) -> None:
    """Write a Matplotlib figure as PNG on white, whole or not at all."""
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=dpi, facecolor="white"))


def ticks(axis: Any, locator: Any) -> None:
    """Ticks at the locator's places alone, as 1,000 rather than 10^3."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
