# SPDX-License-Identifier: Apache-2.0
"""Segmenter with the modules and tensor names of mmsegmentation 1.x, reimplemented on torch's attention for tests."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.originals import randomised

WIDTH, HEADS, PATCH, IMAGE, CLASSES = 64, 4, 8, (32, 48), 5


class Wrapped(nn.Module):
    """mmcv's attention, which wraps torch's as `attn`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)


class Feed(nn.Module):
    """mmcv's FFN: `layers.0.0` and `layers.1`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0))
        self.layers = nn.Sequential(first, nn.Linear(4 * width, width), nn.Dropout(0.0))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn, self.ffn = Wrapped(width, heads), Feed(width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln1(x)
        x = x + self.attn.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.ffn.layers(self.ln2(x))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rows, columns = IMAGE[0] // PATCH, IMAGE[1] // PATCH
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + 1, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.layers = nn.ModuleList(Layer(WIDTH, HEADS, 1e-6) for _ in range(2))
        self.ln1 = nn.LayerNorm(WIDTH, 1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.projection(images)
        grid = x.shape[-2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x)[:, 1:].transpose(1, 2).unflatten(2, grid)


class MaskHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(WIDTH, CLASSES, 1)  # of the base class, unused
        self.layers = nn.ModuleList(Layer(WIDTH, 1, 1e-5) for _ in range(2))
        self.dec_proj = nn.Linear(WIDTH, WIDTH)
        self.cls_emb = nn.Parameter(torch.zeros(1, CLASSES, WIDTH))
        self.patch_proj, self.classes_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.decoder_norm, self.mask_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        grid = features.shape[-2:]
        x = self.dec_proj(features.flatten(2).transpose(1, 2))
        x = torch.cat([x, self.cls_emb.expand(len(x), -1, -1)], dim=1)
        for layer in self.layers:
            x = layer(x)
        x = self.decoder_norm(x)
        patches = F.normalize(self.patch_proj(x[:, :-CLASSES]), dim=-1)
        classes = F.normalize(self.classes_proj(x[:, -CLASSES:]), dim=-1)
        return self.mask_norm(patches @ classes.transpose(1, 2)).transpose(1, 2).unflatten(2, grid)


class LinearHead(nn.Module):
    """FCNHead without convolutions; with `bn`, the linear head of DINOv2."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(WIDTH) if norm else None
        self.conv_seg = nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv_seg(features if self.bn is None else self.bn(features))


class MmSegmenter(nn.Module):
    """EncoderDecoder."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.decode_head = Backbone(), head
        self.auxiliary_head = nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.decode_head(self.backbone(images)), images.shape[-2:], mode="bilinear")


CONFIG = """
norm = dict(type='LN', eps=1e-6, requires_grad=True)
crop_size = (32, 48)
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], size=crop_size)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='VisionTransformer', img_size=(32, 48), patch_size=8, embed_dims=64, num_layers=2, num_heads=4,
        final_norm=True, norm_cfg=norm),
    decode_head=dict(type='HEAD', in_channels=64, channels=64, num_classes=5))
optimizer = build_optimizer(model)
"""
KINDS = {"mask": "SegmenterMaskTransformerHead", "linear": "FCNHead", "bn": "BNHead"}


def mm_segmenter(kind: str) -> nn.Module:
    return randomised(MmSegmenter(MaskHead() if kind == "mask" else LinearHead(kind == "bn")))


def mm_file(path: Path, model: nn.Module, config: str | None, **more: object) -> Path:
    """Save a checkpoint with the keys that mmengine writes."""
    meta = {"epoch": 3, "iter": 8000, "dataset_meta": {"classes": ("a", "b")}}
    if config is not None:
        meta["cfg"] = config
    torch.save({"meta": meta, "state_dict": model.state_dict(), "optimizer": {"state": {}}, **more}, path)
    return path
