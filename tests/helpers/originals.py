# SPDX-License-Identifier: Apache-2.0
"""Models of other frameworks at tiny width, with random weights, written as those frameworks write them."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raycomp.models import readers
from raycomp.models.readers import Translation, UserFacts


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Set all parameters and batch statistics to random numbers; no scale is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or "attn_mask" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            scale = (
                any(part in name for part in ("norm", "gamma", "lambda", "layer_scale", ".bn")) and "bias" not in name
            )
            size = tensor[0].numel() if tensor.ndim in (2, 4) else 25  # fan-in
            tensor.copy_(0.5 + noise.abs() if scale or "running_var" in name else noise * size**-0.5)
    return module.eval()


def read(path: Path, **user: Any) -> Translation:
    return readers.read(readers.open_source(path).with_user(UserFacts(**user)))


def pixels(translation: Translation, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *translation.shape.image, generator=torch.Generator().manual_seed(1))


def timm_file(folder: Path, name: str, **arguments: Any) -> tuple[nn.Module, Path]:
    """Build a timm model with these arguments, and save it with the `config.json` that timm writes."""
    from raycomp.models._timm import create_model

    model = randomised(create_model(name, pretrained=False, **arguments))
    config = {
        "architecture": name,
        "model_args": arguments,
        "pretrained_cfg": dict(cast("dict[str, Any]", model.pretrained_cfg)),
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model, folder / "model.safetensors"


def hf_folder(folder: Path, model: nn.Module) -> nn.Module:
    """Randomise a transformers model, and save it as `save_pretrained` does, with its pixel mean and std."""
    randomised(model)
    model.save_pretrained(folder)
    processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model
