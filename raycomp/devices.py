"""Devices by their cards' names, and float32 arithmetic without TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
