# SPDX-License-Identifier: Apache-2.0
"""Devices: names, exact float32 arithmetic, process settings, and the state after errors.

On a CPU, equal seeds give identical bits. On CUDA, these operations add floats in a nondeterministic order, so that
runs differ in the last bits (see `torch.use_deterministic_algorithms`):

- `scatter_add_` and `index_add_` of floats, which merge tokens in training and without Triton. The Triton kernels add
  in a fixed order. Confusion matrices are integer counts, so order does not matter.
- The backward passes of bilinear `F.interpolate`, pixel cross-entropy, convolutions and fused attention: in training
  and saliency.

Matrix products are identical between runs, but not between batch sizes: cuBLAS chooses kernels by shape.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def device_name(device: torch.device) -> str:
    """Return 'cpu', or the name of the GPU, for example 'NVIDIA H100 80GB HBM3'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def exact_float32() -> Iterator[None]:
    """Disable TF32, which keeps 10 of 23 mantissa bits, for float32 products and convolutions on CUDA.

    The settings have torch's older names, which all supported versions have; torch 2.9 and later raise an error if a
    process also sets the newer `fp32_precision`.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def prepare_device(device: torch.device) -> None:
    """Prepare this process to run models of many shapes on a device.

    cuDNN's attention plans every new shape for at least 0.06 s (docs/results/gpu.md), and with merging each block has a
    different token count. The other fused kernels need no plans.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that GPU memory is full, in torch's allocator or in a CUDA library."""
    full = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    by_library = isinstance(error, RuntimeError) and any(text in str(error) for text in full)
    return by_library or isinstance(error, torch.OutOfMemoryError)


def free(device: torch.device) -> None:
    """Release GPU memory of unreferenced tensors; call it after the `except` block that refers to them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def responds(device: torch.device) -> bool:
    """Return whether a device still computes; after some errors, CUDA refuses all further work of the process."""
    try:
        free(device)
        total = torch.ones(8, device=device).sum().item()  # waits for the kernels
    except RuntimeError:
        return False
    return total == 8


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move tensors of one dtype to a device in one copy, as each copy waits for the device; they then share memory."""
    elsewhere = {name: tensor for name, tensor in tensors.items() if tensor.device != device}
    if not elsewhere:
        return dict(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in elsewhere.values()]).to(device)
    parts = flat.split([tensor.numel() for tensor in elsewhere.values()])
    copies = {name: part.view(tensor.shape) for (name, tensor), part in zip(elsewhere.items(), parts, strict=True)}
    return {**tensors, **copies}
