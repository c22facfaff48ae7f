"""Fused steps as Triton kernels for CUDA devices; where they cannot run, callers keep to plain torch.

Triton is imported when the first CUDA tensor arrives, so that nothing on a CPU waits for it.
"""

import warnings
from functools import cache
from importlib.metadata import version

import torch
from torch import Tensor

from raycomp.errors import logger

_LEAST = (3, 6)  # comes with torch 2.11
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these tensors: on the current CUDA device, at most 32 bits, no gradient to pass on.

    Not under torch.compile, torch.export or an ONNX export, whose graphs shall run without Triton. What stands in for
    a tensor while a graph is traced, such as FakeTensor, is no plain Tensor and says so by its type.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]  # not in its __all__
        return False
    return (
        all(type(x) is Tensor and x.is_cuda and x.dtype in _DTYPES for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and all(x.get_device() == torch.cuda.current_device() for x in tensors)  # where Triton launches
        and available()
    )


@cache
def available() -> bool:
    """Whether a kernel runs on the current CUDA device; says once, as a warning, why not.

    Tried, not looked up: at its first launch Triton builds a module, which takes a C compiler and Python's headers.
    """
    try:
        from raycomp.kernels import groups

        if (found := _triton()) < _LEAST:
            raise ImportError(f"Triton {found} is older than {_LEAST}, which the kernels were tried with")

        x, size = torch.ones(1, 2, 16, device="cuda"), torch.ones(1, 2, device="cuda")
        groups.merge(x, size, torch.zeros(1, 2, dtype=torch.int64, device="cuda"), 1)
    except torch.OutOfMemoryError:  # says nothing of Triton, and must not be remembered
        raise
    except Exception as error:
        logger.debug("trying the Triton kernels", exc_info=True)
        warnings.warn(f"no Triton kernels, plain torch in their place: {error!r}", stacklevel=2)
        return False
    return True


def _triton() -> tuple[int, ...]:
    """Major and minor version."""
    return tuple(int(part) for part in version("triton").split(".")[:2])
