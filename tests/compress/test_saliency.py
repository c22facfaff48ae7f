# SPDX-License-Identifier: Apache-2.0
"""Scores against sums counted by hand, and over batches: precision, and going on after an interruption."""

import pytest
import torch

from raycomp.compress import saliency as saliencies
from raycomp.compress.layout import axes
from raycomp.compress.saliency import from_gradients
from tests.conftest import TINY, seeded_images, seeded_model
from tests.helpers.copies import Copies
from tests.models.heads.shapes import shape_of

# w * dL/dw of every weight of a parameter, all weights of it alike. Blocks of the encoder and of the decoder have the
# same. TINY has 32 embedding channels, patches of 3 * 8 * 8 = 192 values, 4 heads of 8 QK and 8 V units, and 128 MLP
# channels; its decoder has one head of 32.
Q, K, V = 1.0, 2.0, 3.0
Q_BIAS, K_BIAS, V_BIAS = 10.0, 20.0, 30.0
PRODUCTS = {
    "patch_embed.proj.weight": 0.5,
    "patch_embed.proj.bias": 4.0,
    "attn.proj.weight": 5.0,
    "attn.proj.bias": 50.0,
    "mlp.fc1.weight": 4.0,
    "mlp.fc1.bias": 40.0,
    "mlp.fc2.weight": 6.0,
    "mlp.fc2.bias": 60.0,
    "proj_dec.weight": 7.0,
    "proj_dec.bias": 70.0,
    "proj_patch": 8.0,
    "proj_classes": 9.0,
    "norm1.weight": 100.0,
    "norm1.bias": 200.0,
    "norm2.weight": 300.0,
    "norm2.bias": 400.0,
    "encoder.norm.weight": 500.0,
    "encoder.norm.bias": 600.0,
    "decoder_norm.weight": 700.0,
    "decoder_norm.bias": 800.0,
    "mask_norm.weight": 1.0,
    "mask_norm.bias": 1.0,
    "cls_token": 1000.0,
    "dist_token": 2000.0,
    "pos_embed": 3000.0,
    "cls_emb": 4000.0,
}
POSITIONS = 2 + 6 * 8  # CLS, DIST, patches
CLASSES = 5

Q_ROW, K_ROW, V_ROW = 32 * Q + Q_BIAS, 32 * K + K_BIAS, 32 * V + V_BIAS  # 42, 84, 126
INPUTS_OF_BLOCK = 32 * (Q + K + V) + 128 * 4.0  # one column of Q, K and V, and one of fc1
OUTPUTS_OF_BLOCK = (32 * 5.0 + 50.0) + (128 * 6.0 + 60.0)  # a row of proj, a row of fc2
NORMS_OF_BLOCK = 100.0 + 200.0 + 300.0 + 400.0
BY_HAND = {
    "nvit": {
        "block.1.mlp": (32 * 4.0 + 40.0) ** 2,
        "block.1.qk": (4 * Q_ROW / 2) ** 2,
        "block.1.v": (4 * V_ROW / 2) ** 2,
        "block.1.head": (8 * (Q_ROW + K_ROW + V_ROW) / 12) ** 2,
        "embed": ((192 * 0.5 + 4.0 + 3 * (INPUTS_OF_BLOCK + OUTPUTS_OF_BLOCK)) / 12) ** 2,
        "decoder.block.0.mlp": (32 * 4.0 + 40.0) ** 2,
        "decoder.block.0.qk": (Q_ROW / 2) ** 2,
        "decoder.block.0.head": (32 * (Q_ROW + K_ROW + V_ROW) / 12) ** 2,
        "decoder.embed": ((32 * 7.0 + 70.0 + INPUTS_OF_BLOCK + OUTPUTS_OF_BLOCK) / 12) ** 2,
        "decoder.out": (32 * (8.0 + 9.0) / 2) ** 2,
    },
    "taylor": {
        "block.1.mlp": (32 * 4.0 + 40.0 + 32 * 6.0) ** 2,
        "block.1.qk": (Q_ROW + K_ROW) ** 2 / 2,
        "block.1.v": (V_ROW + 32 * 5.0) ** 2 / 2,
        "block.1.head": (8 * (Q_ROW + K_ROW + V_ROW + 32 * 5.0)) ** 2 / 6,
        "embed": (
            192 * 0.5 + 4.0 + 1000.0 + 2000.0 + POSITIONS * 3000.0 + 500.0 + 600.0
            + 3 * (INPUTS_OF_BLOCK + OUTPUTS_OF_BLOCK + NORMS_OF_BLOCK)
            + 32 * 7.0
        ) ** 2 / 12,
        "decoder.embed": (
            CLASSES * 4000.0 + 32 * 7.0 + 70.0 + 700.0 + 800.0
            + INPUTS_OF_BLOCK + OUTPUTS_OF_BLOCK + NORMS_OF_BLOCK
            + 32 * (8.0 + 9.0)
        ) ** 2 / 12,
        "decoder.out": (32 * (8.0 + 9.0)) ** 2 / 2,
    },
}  # fmt: skip


def with_products(shape):
    """A model whose weights are 1 and whose gradients are the products above."""
    model = seeded_model(shape)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0)
        if "attn.qkv" in name:
            values = (Q, K, V) if name.endswith("weight") else (Q_BIAS, K_BIAS, V_BIAS)
            parameter.grad = torch.cat([torch.full_like(p, v) for p, v in zip(parameter.chunk(3), values, strict=True)])
        else:
            parameter.grad = torch.full_like(parameter, next(v for end, v in PRODUCTS.items() if name.endswith(end)))
    return model


@pytest.mark.parametrize(
    ("criterion", "unit"), [(criterion, unit) for criterion, units in BY_HAND.items() for unit in units]
)
def test_scores_equal_sums_counted_by_hand(criterion, unit):
    scores = from_gradients(with_products(TINY), criterion)[unit]
    assert scores.unique().tolist() == [pytest.approx(BY_HAND[criterion][unit], rel=1e-12)]


@pytest.mark.parametrize(("kind", "divisor"), [("embed", 12), ("head", 12), ("qk", 2), ("v", 2), ("mlp", 1)])
def test_the_divisor_of_nvit_is_inside_the_square(kind, divisor):
    """A sum of 12 over an embedding unit's weights gives 1."""
    model = seeded_model(TINY)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    block = model.encoder.blocks[0]
    weight, row = {
        "embed": (model.encoder.patch_embed.proj.bias, 3),
        "head": (block.attn.qkv.bias, 8 + 3),  # Q of head 1
        "qk": (block.attn.qkv.bias, 8 + 3),
        "v": (block.attn.qkv.bias, 2 * 32 + 8 + 3),
        "mlp": (block.mlp.fc1.bias, 3),
    }[kind]
    weight.grad[row] = divisor
    scores = from_gradients(model, "nvit")["embed" if kind == "embed" else f"block.0.{kind}"]
    expected = torch.zeros_like(scores)
    if kind in ("qk", "v"):
        expected[:, 3] = 1.0  # in all heads: the unit spans them
    else:
        expected[1 if kind == "head" else 3] = 1.0
    assert torch.equal(scores, expected)


def test_units_keep_their_places(model, shape):
    """One unit of each kind from a real backward pass, its weights picked out by index."""
    labels = torch.randint(0, 5, (2, *shape.image), generator=torch.Generator().manual_seed(1))
    torch.nn.functional.cross_entropy(model(seeded_images(shape, seed=1)), labels).backward()
    block, d = model.encoder.blocks[1], shape.head_dim

    def product(parameter):
        return parameter.detach().double() * parameter.grad.double()

    rows = product(block.attn.qkv.weight).sum(1) + product(block.attn.qkv.bias)
    columns = product(block.attn.proj.weight).sum(0)
    fc1 = (product(block.mlp.fc1.weight).sum(1) + product(block.mlp.fc1.bias))[7]
    fc2 = product(block.mlp.fc2.weight)[:, 7].sum()
    nvit, taylor = from_gradients(model, "nvit"), from_gradients(model, "taylor")
    model.zero_grad(set_to_none=True)
    head = sum(rows[part * 32 + 2 * d : part * 32 + 3 * d].sum() for part in range(3))  # head 2
    expected = [
        (nvit["block.1.mlp"][7], fc1**2),
        (nvit["block.1.qk"][2, 5], (sum(rows[h * d + 5] for h in range(4)) / 2) ** 2),
        (nvit["block.1.v"][2, 5], (sum(rows[64 + h * d + 5] for h in range(4)) / 2) ** 2),
        (nvit["block.1.head"][2], (head / 12) ** 2),
        (taylor["block.1.mlp"][7], (fc1 + fc2) ** 2),
        (taylor["block.1.qk"][2, 5], (rows[2 * d + 5] + rows[32 + 2 * d + 5]) ** 2 / 2),
        (taylor["block.1.v"][2, 5], (rows[64 + 2 * d + 5] + columns[2 * d + 5]) ** 2 / 2),
        (taylor["block.1.head"][2], (head + columns[2 * d : 3 * d].sum()) ** 2 / 6),
    ]
    for found, by_hand in expected:
        assert found.item() == pytest.approx(float(by_hand), rel=1e-9)


def batches(shape, count: int, stop_before: int | None = None):
    for seed in range(count):
        if seed == stop_before:
            raise InterruptedError
        labels = torch.randint(0, shape.classes, (2, *shape.image), generator=torch.Generator().manual_seed(seed))
        yield seeded_images(shape, seed=seed), labels


def test_an_interrupted_computation_goes_on_where_it_was(model, shape, tmp_path):
    state = tmp_path / "part.safetensors"
    whole = saliencies.compute(model, batches(shape, 5), "nvit")
    with pytest.raises(InterruptedError):
        saliencies.compute(model, batches(shape, 5, stop_before=3), "nvit", state=state)
    assert state.is_file()
    resumed = saliencies.compute(model, batches(shape, 5), "nvit", state=state)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(whole[name], score) for name, score in resumed.items())


def test_the_scores_of_a_batch_stay_on_the_device_of_the_model(shape):
    """Each copy to the CPU would wait for the device; `meta` stands for it."""
    there = seeded_model(shape).to("meta")
    there(seeded_images(shape).to("meta")).sum().backward()
    with Copies() as counted:
        scores = {criterion: from_gradients(there, criterion) for criterion in ("nvit", "taylor")}
    assert counted.between_devices == 0
    assert all(score.is_meta for by_unit in scores.values() for score in by_unit.values())


def test_bfloat16_scores_rank_units_like_float32(model, shape):
    full, half = (
        saliencies.compute(model, batches(shape, 4), "taylor", dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    for name in ("embed", "block.0.mlp", "block.2.mlp"):
        best = set(full[name].topk(len(full[name]) // 2).indices.tolist())
        again = set(half[name].topk(len(half[name]) // 2).indices.tolist())
        assert len(best & again) >= 0.8 * len(best)


@pytest.mark.parametrize("name", ["linear", "mask", "eomt", "dpt project", "upernet", "pup"])
def test_nvit_does_not_count_what_a_head_reads(name):
    """Also not in a transposed convolution, whose inputs are its first axis."""
    model = seeded_model(shape_of(name))
    for _, parameter in model.named_parameters():
        parameter.grad = torch.ones_like(parameter)
    before = from_gradients(model, "nvit")["embed"]
    for tensor, _, units in axes(model):
        if tensor.startswith("decoder.") and "embed" in units:
            model.get_parameter(tensor).grad.fill_(7)
    assert torch.equal(from_gradients(model, "nvit")["embed"], before)
    assert not torch.equal(from_gradients(model, "taylor")["embed"], before)
