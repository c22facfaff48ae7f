"""Fused steps as Triton kernels for CUDA devices; where they cannot run, callers keep to plain torch.

Triton is imported when the first CUDA tensor arrives, so that nothing on a CPU waits for it.
"""

import importlib
from functools import cache

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these tensors: on a CUDA device, at most 32 bits, no gradient to pass on.

    Not under torch.compile, torch.export or an ONNX export, whose graphs shall run without Triton. What stands in for
    a tensor while a graph is traced, such as FakeTensor, is no plain Tensor and says so by its type.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]  # not in its __all__
        return False
    return (
        all(type(x) is Tensor and x.is_cuda and x.dtype in _FLOATS for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and available()
    )


@cache
def available() -> bool:
    """Whether Triton can be imported."""
    try:
        importlib.import_module("triton")
    except ImportError:
        return False
    return True
