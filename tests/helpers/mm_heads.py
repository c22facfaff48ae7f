# SPDX-License-Identifier: Apache-2.0
"""Heads that read several blocks, with the tensor names of mmsegmentation 1.x, reimplemented for tests."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.mmseg import CLASSES, IMAGE, PATCH, WIDTH, Layer
from tests.helpers.originals import randomised

C = 16


def resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Conv(nn.Module):
    """mmcv's ConvModule."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: bool = True, bias: bool | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm if bias is None else bias)
        self.bn = nn.BatchNorm2d(outputs) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.bn is None else F.relu(self.bn(self.conv(x)))


class PreActive(Conv):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(F.relu(x)))


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Conv(WIDTH, 32, 1, norm=False) for _ in range(4))
        self.convs = nn.ModuleList(Conv(32, 32, 3, norm=False) for _ in range(4))

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        levels = []
        for lateral, conv, tap, scale in zip(self.lateral_convs, self.convs, taps, (4, 2, 1, 0.5), strict=True):
            x = lateral(tap)
            levels.append(conv(x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear")))
        return levels


class UPerHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(C, CLASSES, 1)
        self.psp_modules = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), Conv(32, C, 1)) for n in (1, 2, 3, 6))
        self.bottleneck = Conv(32 + 4 * C, C, 3)
        self.lateral_convs = nn.ModuleList(Conv(32, C, 1) for _ in range(3))
        self.fpn_convs = nn.ModuleList(Conv(C, C, 3) for _ in range(3))
        self.fpn_bottleneck = Conv(4 * C, C, 3)

    def forward(self, levels: list[Tensor]) -> Tensor:
        last = levels[-1]
        pooled = [last, *(resize(module(last), last.shape[2:]) for module in self.psp_modules)]
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, levels[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat(pooled, dim=1)))
        for index in (3, 2, 1):
            laterals[index - 1] = laterals[index - 1] + resize(laterals[index], laterals[index - 1].shape[2:])
        outs = [conv(level) for conv, level in zip(self.fpn_convs, laterals[:-1], strict=True)] + [laterals[-1]]
        fused = torch.cat([outs[0], *(resize(out, outs[0].shape[2:]) for out in outs[1:])], dim=1)
        return self.conv_seg(self.fpn_bottleneck(fused))


class SETRUPHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_seg, self.norm = nn.Conv2d(C, CLASSES, 1), nn.LayerNorm(WIDTH, 1e-6)
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.up_convs = nn.ModuleList(nn.Sequential(Conv(WIDTH if n == 0 else C, C, 3), up) for n in range(4))

    def forward(self, taps: list[Tensor]) -> Tensor:
        x = self.norm(taps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for layer in self.up_convs:
            x = layer(x)
        return self.conv_seg(x)


class Fusion(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.project = Conv(C, C, 1, norm=False)
        for name in ("res_conv_unit1", "res_conv_unit2"):
            unit = nn.Module()
            unit.conv1, unit.conv2 = PreActive(C, C, 3), PreActive(C, C, 3)
            setattr(self, name, None if first and name.endswith("1") else unit)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        if level is not None:
            level = level if level.shape == x.shape else resize(level, x.shape[2:])
            x = x + level + self.res_conv_unit1.conv2(self.res_conv_unit1.conv1(level))
        x = x + self.res_conv_unit2.conv2(self.res_conv_unit2.conv1(x))
        return self.project(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class DPTHead(nn.Module):
    """With readout `project`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 8, 16, 16)
        self.conv_seg = nn.Conv2d(C, CLASSES, 1)
        self.reassemble_blocks = nn.Module()
        self.reassemble_blocks.projects = nn.ModuleList(Conv(WIDTH, width, 1, norm=False) for width in widths)
        first, second = nn.ConvTranspose2d(8, 8, 4, 4), nn.ConvTranspose2d(8, 8, 2, 2)
        resizes = [first, second, nn.Identity(), nn.Conv2d(16, 16, 3, 2, 1)]
        self.reassemble_blocks.resize_layers = nn.ModuleList(resizes)
        readouts = (nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU()) for _ in widths)
        self.reassemble_blocks.readout_projects = nn.ModuleList(readouts)
        self.convs = nn.ModuleList(Conv(width, C, 3, norm=False, bias=False) for width in widths)
        self.fusion_blocks = nn.ModuleList(Fusion(n == 0) for n in range(4))
        self.project = Conv(C, C, 3)

    def forward(self, taps: list[tuple[Tensor, Tensor]]) -> Tensor:
        levels, blocks = [], self.reassemble_blocks
        for index, (x, cls) in enumerate(taps):
            both = torch.cat([x.flatten(2).transpose(1, 2), cls.expand(-1, x[0, 0].numel(), -1)], dim=-1)
            x = blocks.readout_projects[index](both).transpose(1, 2).unflatten(2, x.shape[2:])
            levels.append(self.convs[index](blocks.resize_layers[index](blocks.projects[index](x))))
        x = self.fusion_blocks[0](levels[-1])
        for index in range(1, 4):
            x = self.fusion_blocks[index](x, levels[-1 - index])
        return self.conv_seg(self.project(x))


class Backbone(nn.Module):
    """Four blocks, each a tap, without a final norm."""

    def __init__(self) -> None:
        super().__init__()
        tokens = (IMAGE[0] // PATCH) * (IMAGE[1] // PATCH) + 1
        self.cls_token, self.pos_embed = (nn.Parameter(torch.zeros(1, n, WIDTH)) for n in (1, tokens))
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.layers = nn.ModuleList(Layer(WIDTH, 4, 1e-6) for _ in range(4))

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        x = self.patch_embed.projection(images)
        grid, taps = x.shape[-2:], []
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
            taps.append((x[:, 1:].transpose(1, 2).unflatten(2, grid), x[:, :1]))
        return taps


class Tapped(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.backbone, self.neck = Backbone(), Neck() if kind == "UPerHead" else None
        self.decode_head = {"UPerHead": UPerHead, "SETRUPHead": SETRUPHead, "DPTHead": DPTHead}[kind]()

    def forward(self, images: Tensor) -> Tensor:
        taps = self.backbone(images)
        if isinstance(self.decode_head, DPTHead):
            return resize(self.decode_head(taps), images.shape[2:])
        patches = [patch for patch, _ in taps]
        return resize(self.decode_head(patches if self.neck is None else self.neck(patches)), images.shape[2:])


def tapped(kind: str) -> nn.Module:
    return randomised(Tapped(kind))


TAPPED = """
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type='VisionTransformer', img_size=(32, 48), patch_size=8, embed_dims=64, num_layers=4, num_heads=4,
        out_indices=(0, 1, 2, 3), norm_cfg=dict(type='LN', eps=1e-6)),
    decode_head=dict(type='HEAD', in_index=INDEX, up_scale=2, readout_type='project'))
"""
