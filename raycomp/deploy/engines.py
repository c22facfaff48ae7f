# SPDX-License-Identifier: Apache-2.0
"""Run models in the engines that deploy them: torch, torch.compile, or onnxruntime at a precision."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from raycomp.deploy.precision_facts import Precision
from raycomp.errors import UserError, first_line
from raycomp.models.segmenter import Segmenter
from raycomp.shape import Size

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Engine = Literal["torch", "onnxruntime"]

Bind = Callable[[Tensor], Callable[[], object]]
"""Binds images (B, 3, H, W) to a function that runs the model on them."""

_CALIBRATION = 4  # random images: their ranges do not change the time of a quantised model


def torch_runs(model: Segmenter, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> Bind:
    """Return runs of a model in torch, moved to a device and precision; `compiled` ones by torch.compile."""
    model = model.to(device, dtype)
    run: Callable[..., Callable[[], object]] = _compiled if compiled else partial
    return lambda images: run(model, images.to(dtype))


def exported(model: Segmenter, size: Size, precisions: Sequence[Precision] = ("fp32",)) -> dict[Precision, bytes]:
    """Export a model to ONNX by precision: fp32, or int8 for time alone, with ranges of random images.

    Args:
        size: height and width of the images.

    Raises:
        UserError: if the extra for ONNX is missing, or merging is adaptive.
    """
    from raycomp.deploy.onnx import graph

    traced = graph(model, torch.zeros(1, 3, *size))
    graphs = {"fp32": traced}
    if "int8" in precisions:
        from raycomp.deploy.precision import to_int8

        graphs["int8"] = to_int8(traced, torch.randn(_CALIBRATION, 3, *size).numpy())
    return {name: graphs[name].SerializeToString() for name in precisions}


def graph_runs(source: bytes, device: torch.device, threads: int) -> Bind:
    """Return runs of a serialised ONNX graph in onnxruntime; raise a UserError if it cannot run on the device."""
    from raycomp.deploy.onnx import open_session

    return session_runs(open_session(source, device, threads))


def session_runs(session: "InferenceSession") -> Bind:
    """Return runs of an open session; images and logits stay on its device, so no host copies are timed."""
    from raycomp.deploy.onnx import run_bound

    return lambda images: partial(run_bound, session, images)


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Let torch use a number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compiled(model: Segmenter, images: Tensor) -> Callable[[], object]:
    """Compile a run of a model on images.

    torch caches a few compilations per code object and searches them in each call, so models that share a code object
    would slow each other down.
    """

    def forward(x: Tensor) -> Tensor:
        return model(x)

    copy = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    run = partial(torch.compile(copy, fullgraph=True, dynamic=False), images)
    try:
        run()
    except RuntimeError as error:  # no compiler, or one that fails
        raise UserError(f"--compile: torch.compile fails: {first_line(error)}") from None
    return run
