# SPDX-License-Identifier: Apache-2.0
"""What a step is given, and how it keeps its figures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raycomp.files import write_bytes
from raycomp.shape import ModelShape, deit_base_distilled, vit

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml"


@dataclass(frozen=True)
class Setting:
    """Where a step runs, and how large."""

    name: str
    """`cuda` or `cpu`."""
    small: bool
    """Toy sizes, which show that every line runs, and nothing about speed."""
    folder: Path
    """For files that steps share: the sweep's results, exported models."""

    @property
    def device(self) -> torch.device:
        return torch.device(self.name)

    @property
    def design(self) -> ModelShape:
        """DeiT-B at 512 px with 150 classes."""
        if self.small:
            return ModelShape(width=64, heads=2, depth=3, patch=16, image=(64, 64), classes=20, prefix=2)
        return deit_base_distilled((512, 512), 150)

    @property
    def tiny(self) -> ModelShape:
        """ViT-Ti at 512 px with 11 classes."""
        if self.small:
            return ModelShape(width=32, heads=2, depth=2, patch=16, image=(32, 32), classes=11)
        return vit("tiny", (512, 512), 11)

    @property
    def batch(self) -> int:
        return 2 if self.small else 32

    @property
    def dtype(self) -> torch.dtype:
        """Half precision where it is fast."""
        return torch.float32 if self.name == "cpu" else torch.bfloat16


class Notes:
    """The figures of a step, written after each, so that a step that is stopped keeps those it has."""

    def __init__(self, path: Path) -> None:
        self._path, self._figures = path, dict[str, Any]()

    def put(self, **figures: Any) -> None:
        """Add figures that JSON can hold, or replace them."""
        self._figures |= figures
        write_bytes(self._path, json.dumps(self._figures, indent=1, default=float).encode())


def random_images(setting: Setting, batch: int, shape: ModelShape) -> torch.Tensor:
    """Normalised noise (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *shape.image, generator=generator).to(setting.device, setting.dtype)
