# SPDX-License-Identifier: Apache-2.0
"""Counts copies between devices, without one: `meta` stands for it."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Copies(TorchDispatchMode):
    """While open, counts operations whose result lies on another device than what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.between_devices = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        copies = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if func in copies:
            devices = {tensor.device for tensor in (*args, result) if isinstance(tensor, torch.Tensor)}
            self.between_devices += len(devices) > 1
        return result
