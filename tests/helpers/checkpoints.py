# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as an official Segmenter run writes them."""

from pathlib import Path

import torch

from tests.conftest import TINY, seeded_model

VARIANT = """\
algorithm_kwargs: {batch_size: 8}
inference_kwargs: {im_size: 512}
net_kwargs:
  backbone: vit_micro
  d_model: 32
  decoder: {drop_path_rate: 0.0, dropout: 0.1, n_cls: 5, n_layers: 1, name: mask_transformer}
  distilled: true
  drop_path_rate: 0.1
  image_size: !!python/tuple
  - 48
  - 64
  n_cls: 5
  n_heads: 4
  n_layers: 3
  normalization: vit
  patch_size: 8
"""


def official(folder: Path, **change: torch.Tensor) -> Path:
    """A checkpoint.pth and variant.yml with every key an official Segmenter run writes."""
    model = seeded_model(TINY)
    weights = model.state_dict()
    for head in ("head", "head_dist"):
        weights |= {f"encoder.{head}.weight": torch.zeros(1000, 32), f"encoder.{head}.bias": torch.zeros(1000)}
    training = {"optimizer": {"state": {}}, "n_cls": 5, "lr_scheduler": {"base_lrs": [0.001]}, "epoch": 63}
    torch.save({"model": weights | change, **training}, folder / "checkpoint.pth")
    (folder / "variant.yml").write_text(VARIANT)
    return folder / "checkpoint.pth"
