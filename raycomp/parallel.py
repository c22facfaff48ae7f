# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training: every process takes its share of each batch, and gradients are averaged.

torch's DistributedDataParallel hooks a module's forward pass, but our losses call other methods of a model, or a model
made of its slices. Averaging explicitly takes a few lines. Without a process group, there is one process.
"""

from collections.abc import Iterable

import torch
from torch import distributed, nn


def rank() -> int:
    """Return the index of this process, from 0."""
    return distributed.get_rank() if _grouped() else 0


def world() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if _grouped() else 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over processes, all of which must have gradients of the same parameters."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()
