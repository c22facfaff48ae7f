# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: record the hundreds of kernel launches of a model once, and replay them as one."""

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[Tensor], Tensor]
_LAUNCHING = 0.8  # share of a call's time; the rest is waiting for the device


def graphed(run: Run, example: Tensor) -> Run:
    """Capture `run` as a CUDA graph for inputs like `example`, for inference.

    `run` must not depend on values on the device, so adaptive ALGM, whose token counts depend on the images, is not
    supported. Each replay reads other data, such as weights, at the addresses used during capture.

    Args:
        run: maps one tensor to one tensor; called twice, to warm up and to capture.
        example: an input of the expected shape, dtype and device; its values are used only to warm up.

    Returns:
        A function with the same results. Its output is one buffer that the next call overwrites, so use or copy it
        first. Inputs of another shape, dtype or device run eagerly. The graph's memory is freed with the function.
        Returns `run` itself if `example` is not on a CUDA device, or if capture fails (with a warning).
    """
    if not example.is_cuda:
        return run
    try:
        return _Graph(run, example)
    except RuntimeError as error:
        warnings.warn(f"no CUDA graph, kernels are launched one by one: {error}", stacklevel=2)
        return run


class Replayed:
    """A function that becomes a CUDA graph if launching its kernels takes longer than running them.

    With small models or small batches the device waits for launches; otherwise a graph gains less than its capture
    costs. The second call decides, when libraries are loaded and kernels compiled.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._calls = run, 0

    def __call__(self, x: Tensor) -> Tensor:
        """Call `run`, or replay its graph, whose output buffer the next call overwrites."""
        self._calls += 1
        if not x.is_cuda or self._calls != 2:
            return self._run(x)
        torch.cuda.synchronize(x.device)
        started = time.perf_counter()
        result = self._run(x)
        launched = time.perf_counter()
        torch.cuda.synchronize(x.device)
        if launched - started > _LAUNCHING * (time.perf_counter() - started):
            self._run = graphed(self._run, x)
        return result


class _Graph:
    """A CUDA graph and its buffers."""

    @torch.inference_mode()
    def __init__(self, run: Run, example: Tensor) -> None:
        self._run, self._input = run, example.clone()
        # The first pass creates what a capture must not create: library handles, plans, compiled kernels. It runs on a
        # side stream, as required by docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
        with torch.cuda.device(example.device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                run(self._input)
            current.wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # other threads, such as one that pins memory, may continue
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = run(self._input)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        like = self._input
        if (x.shape, x.dtype, x.device) != (like.shape, like.dtype, like.device):
            return self._run(x)
        like.copy_(x)
        self._graph.replay()
        return self._output
