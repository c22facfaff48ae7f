"""Copy many small tensors to another device at once: each copy on its own would wait for the device."""

from collections.abc import Mapping

import torch
from torch import Tensor


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors of one dtype on a device, by one copy; those that came over share one memory."""
    apart = {name: tensor for name, tensor in tensors.items() if tensor.device != device}
    if not apart:
        return dict(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in apart.values()]).to(device)
    parts = flat.split([tensor.numel() for tensor in apart.values()])
    return {
        **tensors,
        **{name: part.view(tensor.shape) for (name, tensor), part in zip(apart.items(), parts, strict=True)},
    }
