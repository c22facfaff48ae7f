# SPDX-License-Identifier: Apache-2.0
"""Heads compared with those of transformers and with reimplemented layers of mmsegmentation, at random weights.

Batch normalisation has random statistics and is folded into the convolution before it.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.models.heads import build_head
from raycomp.models.heads.head import Head
from raycomp.shape import ModelShape
from tests.models.heads.shapes import shape_of

transformers = pytest.importorskip("transformers")

Layer = tuple[Tensor, Tensor | None]
"""Weight and bias."""
GRIDS = [(6, 8), (5, 7), (4, 5)]


def randomised(module: nn.Module) -> Any:
    """Draw every parameter and the statistics of batch normalisation; return the module for evaluation."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.dtype.is_floating_point:
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        fan = max(1, tensor[0].numel()) if tensor.dim() > 1 else 4
        tensor.data.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn * fan**-0.5)
    return module.eval()


def folded(convolution: Any, norm: Any = None) -> Layer:
    """Return weight and bias of a layer and the batch normalisation after it."""
    weight = convolution.weight.data
    outputs = convolution.out_channels if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) else len(weight)
    bias = torch.zeros(outputs) if convolution.bias is None else convolution.bias.data
    if norm is None:
        return weight, bias
    scale = norm.weight.data / (norm.running_var + norm.eps).sqrt()
    return weight * scale.view(-1, 1, 1, 1), (bias - norm.running_mean) * scale + norm.bias.data


def filled(shape: ModelShape, layers: dict[str, Layer]) -> Head:
    """Build a head from weights and biases by layer; every parameter must get a value."""
    head = build_head(shape, shape.width)
    tensors = {f"{name}.weight": weight for name, (weight, _) in layers.items()}
    tensors |= {f"{name}.bias": bias for name, (_, bias) in layers.items() if bias is not None}
    head.load_state_dict(tensors)
    return head.eval()


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("readout", ["ignore", "add", "project"])
@pytest.mark.parametrize("normed", [False, True])
@torch.no_grad()
def test_dpt_equals_transformers(grid, readout, normed):
    """With batch normalisation in the residual units, and without doubled scores, it is that of mmsegmentation."""
    from transformers.models.dpt import modeling_dpt as original

    shape = shape_of("dpt", readout=readout, double_scores=not normed, tap_widths=(5, 6, 7, 8))
    config = transformers.DPTConfig(
        hidden_size=32, neck_hidden_sizes=(5, 6, 7, 8), fusion_hidden_size=12, readout_type=readout,
        use_batch_norm_in_fusion_residual=normed, num_labels=5,
    )  # fmt: skip
    neck, last = randomised(original.DPTNeck(config)), randomised(original.DPTSemanticSegmentationHead(config)).head
    layers = {
        "project": folded(last[0], last[1]),
        "classifier": folded(last[4]),
    }
    for i, layer in enumerate(neck.reassemble_stage.layers):
        layers[f"reassemble.{i}.project"] = folded(layer.projection)
        if i != 2:
            layers[f"reassemble.{i}.resize"] = folded(layer.resize)
        layers[f"convs.{i}"] = folded(neck.convs[i])
        if readout == "project":
            weight, bias = folded(neck.reassemble_stage.readout_projects[i][0])
            layers[f"readout.{i}.patch"], layers[f"readout.{i}.cls"] = (weight[:, :32], bias), (weight[:, 32:], None)
    for j, layer in enumerate(neck.fusion_stage.layers):
        layers[f"fusion.{j}.project"] = folded(layer.projection)
        for n in (1, 2) if j else (2,):
            unit = getattr(layer, f"residual_layer{n}")
            for m in (1, 2):
                norm = getattr(unit, f"batch_norm{m}") if normed else None
                layers[f"fusion.{j}.unit{n}.conv{m}"] = folded(getattr(unit, f"convolution{m}"), norm)
    head = filled(shape, layers)
    states = [drawn(2, 1 + grid[0] * grid[1], 32) + i for i in range(4)]
    x = neck(states, *grid)[-1]
    expected = last[:5](x) if normed else last(x)
    taps = [state[:, 1:].transpose(1, 2).unflatten(2, grid) for state in states]
    assert_same(head(taps, [torch.cat([state[:, :1], drawn(2, 1, 32)], dim=1) for state in states]), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["upernet", "upernet of one"])
@torch.no_grad()
def test_upernet_equals_transformers_behind_the_neck_of_mmsegmentation(grid, name):
    from transformers.models.upernet import modeling_upernet as original

    shape = shape_of(name)
    [width] = set(shape.level_widths)
    config = transformers.UperNetConfig(hidden_size=12, num_labels=5, use_auxiliary_head=False)
    reference = randomised(original.UperNetHead(config, [width] * 4))
    laterals = randomised(nn.ModuleList(nn.Conv2d(32, width, 1) for _ in shape.tapped))
    convs = randomised(nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4)))
    layers = {f"neck.lateral.{i}": folded(layer) for i, layer in enumerate(laterals)}
    layers |= {f"neck.convs.{i}": folded(layer) for i, layer in enumerate(convs)}
    modules = {f"pool.{i}": block.layers[1] for i, block in enumerate(reference.psp_modules.blocks)}
    modules |= {f"lateral.{i}": module for i, module in enumerate(reference.lateral_convs)}
    modules |= {f"pyramid.{i}": module for i, module in enumerate(reference.fpn_convs)}
    modules |= {"bottleneck": reference.bottleneck, "fusion": reference.fpn_bottleneck}
    layers |= {key: folded(module.conv, module.batch_norm) for key, module in modules.items()}
    head = filled(shape, layers | {"classifier": folded(reference.classifier)})
    taps = [drawn(2, 32, *grid) + i for i in range(len(shape.tapped))]
    projected = [layer(tap) for layer, tap in zip(laterals, taps, strict=True)] * (4 // len(taps))
    levels = [
        conv(F.interpolate(x, scale_factor=scale, mode="bilinear"))
        for conv, x, scale in zip(convs, projected, (4, 2, 1, 0.5), strict=True)
    ]
    assert_same(head(taps, [drawn(2, 2, 32)] * len(taps)), reference(levels))


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_pup_equals_mmsegmentation(grid):
    stages: list[nn.Module] = []
    for inputs in (32, 12, 12, 12):
        stages += [nn.Conv2d(inputs, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
        stages.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    reference = randomised(nn.Sequential(*stages, nn.Conv2d(12, 5, 1)))
    layers = {f"convs.{i}": folded(reference[4 * i], reference[4 * i + 1]) for i in range(4)}
    head = filled(shape_of("pup"), layers | {"classifier": folded(reference[16])})
    x = drawn(2, 32, *grid)
    assert_same(head([x], [drawn(2, 2, 32)]), reference(x))


@pytest.mark.parametrize("upscales", [1, 2])
@torch.no_grad()
def test_eomt_equals_transformers(upscales):
    shape = shape_of("eomt", image=(48, 48), mask_upscales=upscales)
    config = transformers.EomtConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=48, patch_size=8, num_labels=5,
        num_queries=6, num_blocks=1, num_upscale_blocks=upscales, num_register_tokens=1,
    )  # fmt: skip
    reference = randomised(transformers.EomtForUniversalSegmentation(config))
    layers = {"class_head": folded(reference.class_predictor)}
    layers |= {f"mask_head.{part}": folded(getattr(reference.mask_head, part)) for part in ("fc1", "fc2", "fc3")}
    for i, block in enumerate(reference.upscale_block.block):
        parts = {"conv": block.conv1, "depthwise": block.conv2, "norm": block.layernorm2d}
        layers |= {f"upscale.{i}.{part}": folded(module) for part, module in parts.items()}
    head = filled(shape, layers)
    tokens = drawn(2, 6 + 2 + 36, 32)  # queries, CLS and one register, patches
    masks, classes = reference.predict(tokens)
    patches = tokens[:, 8:].transpose(1, 2).unflatten(2, (6, 6))
    scores = head([patches], [tokens[:, :8]])
    actual = head.form.unpacked(scores, (48, 48))
    assert_same(actual[0], masks)
    assert_same(actual[1], classes)
    large = F.interpolate(masks, (48, 48), mode="bilinear").sigmoid()
    expected = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], large)
    assert_same(head.form.logits(scores, (48, 48)), expected)
    assert_same(head.form.logits(scores, (45, 41)), expected[..., :45, :41])
