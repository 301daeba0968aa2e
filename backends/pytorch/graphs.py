"""CUDA graphs: many kernels launched by one call, without Python between them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Graph:
    """A function's kernels as one CUDA graph. A call copies its inputs in, launches the kernels and returns their result.

    The constructor runs the function once in Python, to record its kernels; the device computes nothing. Whatever isn't an
    input is a constant of the graph, numbers too. The function must have run before on inputs of these shapes: CUDA's
    libraries are set up at their first use, and that can't be recorded.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor | float, device: torch.device):
        self.function = function  # it holds the tensors that the kernels read and write
        self.inputs = [torch.as_tensor(value, dtype=torch.float32, device=device).clone() for value in inputs]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = function(*self.inputs)

    def __call__(self, *inputs: Tensor | float) -> Any:
        """The function's result, in memory that the next call overwrites."""
        for own, value in zip(self.inputs, inputs, strict=True):
            own.copy_(value) if isinstance(value, Tensor) else own.fill_(value)  # a number is passed with the kernel: no wait
        self.graph.replay()
        return self.result


def repeated(function: Callable[[], Any], *, device: torch.device) -> Callable[[int], None]:
    """A function that does this one `repeats` times, on a GPU by a graph, and returns when the device is idle."""
    if device.type == "cuda":
        function()
        function = Graph(function, device=device)

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return launch
