"""Devices: cards' names, float32 arithmetic without TF32, settings of a process, and what is left after an error.

The same seed gives the same bits on a CPU. On CUDA these operations of this project add floats in no fixed order, so
that two runs differ in the last bits (list of `torch.use_deterministic_algorithms`):

- `scatter_add_` and `index_add_` of floats: tokens merged into one by plain torch, in training and where Triton is
  missing; the kernels add in a fixed order. Confusion matrices are counts, which no order changes.
- backward of bilinear `F.interpolate`, of cross-entropy over pixels, of convolutions and of the fused attention
  kernels: training, and saliencies.

Matrix products are the same bits in two runs, but not at two batch sizes: cuBLAS chooses its kernel by the shape.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def device_name(device: torch.device) -> str:
    """'cpu', or the name of the card, for example 'NVIDIA H100 80GB HBM3'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products and convolutions on CUDA in float32: TF32 keeps 10 bits of a factor's mantissa, not 23.

    Both settings are restored after. They are torch's older names, which hold in all versions that the project takes;
    torch 2.9 and later raise where a process sets the newer `fp32_precision` beside them.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def prepare_device(device: torch.device) -> None:
    """Set up this process for models of many shapes on a device.

    cuDNN's attention, where torch chooses it, plans anew for every shape, in 0.06 s and more (docs/results/gpu.md), and
    merging gives every block a token count of its own. The other fused kernels need no plan.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a card is full: of torch's allocator, or of a library that allocates by itself."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _FULL)
    )


_FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def free(device: torch.device) -> None:
    """Give back what tensors that nothing refers to hold of a card; call it after the `except` block that has them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def responds(device: torch.device) -> bool:
    """Whether a device still computes: after some errors CUDA refuses all work of the process until it ends."""
    try:
        free(device)
        total = torch.ones(8, device=device).sum().item()  # waits for the kernels
    except RuntimeError:
        return False
    return total == 8


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors of one dtype on a device, by one copy: each on its own would wait for the device.

    Those that came over share one memory.
    """
    apart = {name: tensor for name, tensor in tensors.items() if tensor.device != device}
    if not apart:
        return dict(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in apart.values()]).to(device)
    parts = flat.split([tensor.numel() for tensor in apart.values()])
    return {
        **tensors,
        **{name: part.view(tensor.shape) for (name, tensor), part in zip(apart.items(), parts, strict=True)},
    }
