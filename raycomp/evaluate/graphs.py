"""CUDA graphs: a model whose hundreds of launches are recorded once, and replayed as one."""

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[Tensor], Tensor]
_LAUNCHING = 0.8  # of a call's time; the rest is waiting for the device


def graphed(run: Run, example: Tensor) -> Run:
    """Capture `run` as a CUDA graph for inputs like `example`, for inference.

    Nothing that `run` does may depend on values on the device: adaptive ALGM, whose token counts come from the images,
    must not be given. What it reads beside its input, such as weights, is read at the same addresses by each replay.

    Args:
        run: maps one tensor to one tensor; called twice, once to warm up and once to be captured.
        example: of the shape, dtype and device to come. Its values are only used to warm up.

    Returns:
        A function of the same answers. Its output is one buffer, which the next call overwrites: use it, or copy it,
        before. Inputs unlike `example` run eagerly. Memory of the graph is freed with the function.
        Where `example` is not on a CUDA device, or where capture fails (with a warning), `run` itself.
    """
    if not example.is_cuda:
        return run
    try:
        return _Graph(run, example)
    except RuntimeError as error:
        warnings.warn(f"no CUDA graph, every launch is made anew: {error}", stacklevel=2)
        return run


class Replayed:
    """A function that becomes a graph where launching its kernels takes the host longer than the device runs them.

    Small models, and small batches of large ones, leave a device waiting for launches; in others a graph gains less
    than its capture costs. The second call, when libraries are loaded and kernels compiled, is timed.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._calls = run, 0

    def __call__(self, x: Tensor) -> Tensor:
        """Answer as `run`; once there is a graph, in a buffer that the next call overwrites."""
        self._calls += 1
        if not x.is_cuda or self._calls != 2:
            return self._run(x)
        torch.cuda.synchronize(x.device)
        started = time.perf_counter()
        answer = self._run(x)
        launched = time.perf_counter()
        torch.cuda.synchronize(x.device)
        if launched - started > _LAUNCHING * (time.perf_counter() - started):
            self._run = graphed(self._run, x)
        return answer


class _Graph:
    """One graph and its buffers."""

    @torch.inference_mode()
    def __init__(self, run: Run, example: Tensor) -> None:
        self._run, self._input = run, example.clone()
        # A first pass makes what must not be made in a capture: library handles, plans, compiled kernels. It runs on a
        # stream of its own as torch asks for: docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
        with torch.cuda.device(example.device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                run(self._input)
            current.wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # other threads, such as one that pins memory, may go on meanwhile
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
