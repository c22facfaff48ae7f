# SPDX-License-Identifier: Apache-2.0
"""Fused steps as Triton kernels for CUDA devices; where they cannot run, callers use plain torch.

Triton is imported when the first CUDA tensor arrives, so that CPU runs do not wait for it.
"""

import warnings
from functools import cache
from importlib.metadata import version

import torch
from torch import Tensor

from raycomp.errors import logger

_MINIMUM = (3, 6)  # comes with torch 2.11
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


def usable(*tensors: Tensor) -> bool:
    """Return whether the kernels accept these tensors: current CUDA device, at most 32 bits, no gradients needed.

    Returns False under torch.compile, torch.export and ONNX export, whose graphs must run without Triton. Stand-ins
    during tracing, for example FakeTensor, are recognised by their type.
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
    """Return whether kernels run on the current CUDA device; if not, warn once with the reason.

    This runs a kernel, because at its first launch Triton builds a module with a C compiler and Python's headers.
    """
    try:
        from raycomp.kernels import groups

        if (installed := _triton()) < _MINIMUM:
            raise ImportError(f"Triton {installed} is older than {_MINIMUM}, the oldest tested version")

        x, size = torch.ones(1, 2, 16, device="cuda"), torch.ones(1, 2, device="cuda")
        groups.merge(x, size, torch.zeros(1, 2, dtype=torch.int64, device="cuda"), 1)
    except torch.OutOfMemoryError:  # unrelated to Triton, so it must not be cached
        raise
    except Exception as error:
        logger.debug("trying the Triton kernels", exc_info=True)
        warnings.warn(f"no Triton kernels, using plain torch: {error!r}", stacklevel=2)
        return False
    return True


def _triton() -> tuple[int, ...]:
    """Return the major and minor version."""
    return tuple(int(part) for part in version("triton").split(".")[:2])
