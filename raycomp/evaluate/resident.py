# SPDX-License-Identifier: Apache-2.0
"""Evaluation images and labels on the model's device, copied once for all trials of a process.

If they do not fit, each is copied when needed, asynchronously from pinned memory.
"""

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from raycomp.data.evalset import Stack

_SHARE = 4  # use at most 1/4 of the free memory


class Resident:
    """The images of a stack as uint8 tensors (H, W, channels) on a device; on the CPU, views of the stack."""

    def __init__(self, stack: Stack, device: torch.device) -> None:
        self._views, self._device = stack.views(), device
        self._copied: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        if (copied := self._copied.get(index)) is not None:
            return copied
        image = torch.from_numpy(self._views[index])
        if self._device.type == "cuda":
            image = image.pin_memory()
        return image.to(self._device, non_blocking=True)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return height, width and channels."""
        height, width, channels = self._views[index].shape
        return height, width, channels

    def hold(self, indices: Iterable[int], limit: int) -> None:
        """Copy images to the device; copy none if they take more than `limit` bytes."""
        missing = sorted(set(indices) - self._copied.keys())
        if sum(self._views[index].nbytes for index in missing) <= limit:
            self._copied |= {index: torch.from_numpy(self._views[index]).to(self._device) for index in missing}


_residents: dict[tuple[int, str], Resident] = {}


def resident(stack: Stack, device: torch.device, indices: Iterable[int]) -> Resident:
    """Return the images of a stack on a device; calls with the same stack share them while it exists.

    Args:
        indices: images needed now.
    """
    key = id(stack), str(device)
    if key not in _residents:
        _residents[key] = Resident(stack, device)
        weakref.finalize(stack, _residents.pop, key)
    images = _residents[key]
    if device.type != "cpu":
        images.hold(indices, _free(device) // _SHARE)
    return images


def _free(device: torch.device) -> int:
    """Return the free bytes of a device, including torch's unused reserve; practically unlimited unless on CUDA."""
    if device.type != "cuda":
        return 2**63 - 1
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
