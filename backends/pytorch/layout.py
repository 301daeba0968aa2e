"""The axes of PyTorch's weights: [out, in] and [out, in, height, width], where the portable state has [in, out] and
[height, width, in, out].
"""

import numpy as np
from torch import Tensor

from common.parameters import Axes

ORDER = ("out", "in", "height", "width")


def own(array: np.ndarray, axes: Axes) -> np.ndarray:
    """The array of a portable parameter with these axes, in PyTorch's order of axes."""
    return np.ascontiguousarray(array.transpose([list(axes).index(axis) for axis in _in_order(axes)]))


def portable(tensor: Tensor, axes: Axes) -> np.ndarray:
    """The inverse of `own`, of a parameter's tensor or of its gradient or moment."""
    order = _in_order(axes)
    return tensor.detach().cpu().numpy().transpose([order.index(axis) for axis in axes]).copy()


def _in_order(axes: Axes) -> list[str]:
    return [axis for axis in ORDER if axis in axes]
