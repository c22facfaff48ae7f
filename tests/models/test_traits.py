# SPDX-License-Identifier: Apache-2.0
"""Every trait and every head of a model shape through pruning, elastic slicing, merging, costs, files and exports."""

import math
from copy import deepcopy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from raycomp.compress.apply import compress
from raycomp.compress.elastic import Nested, ordered
from raycomp.compress.layout import axes
from raycomp.compress.nvit import nvit
from raycomp.compress.pruning import kept_units, prune
from raycomp.compress.reconstruct import reconstruct
from raycomp.deploy import model as models
from raycomp.deploy.onnx import export_onnx
from raycomp.errors import UserError
from raycomp.flops import gflops, profile
from raycomp.merging import Algm, Cts, ToMe, WindowsToMe
from raycomp.merging.tokens import Tokens, patch_places, token_places
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.models.rotary import Rotation
from raycomp.recipe import check_fits, dense
from raycomp.settings.comparison import NvitConfig
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.shape import ModelShape
from raycomp.space import Space
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency
from tests.helpers.counting import counted_gflops
from tests.helpers.deploy import CLASSES, DATA
from tests.helpers.traits import SHAPES, cut_everywhere, with_traits

every_trait = pytest.mark.parametrize("name", SHAPES)


def tome(shape: ModelShape, metric: str = "mean_keys") -> ToMe:
    return ToMe(ratios=(0.2, 0.0, 0.3, 0.1)[: shape.depth], metric=metric)


@every_trait
def test_counted_flops_equal_fvcore(name, monkeypatch):
    shape = with_traits(name)
    model, saliency = seeded_model(shape), seeded_saliency(seeded_model(shape))
    sharing = Cts(share=0.5, policy="small")
    for recipe in (dense(shape), cut_everywhere(shape, tome(shape)), cut_everywhere(shape, sharing)):
        built = compress(model, recipe, saliency, Policy("small", shape.patch).eval())
        assert counted_gflops(built, monkeypatch) == pytest.approx(gflops(shape, recipe), abs=1e-12)


@pytest.mark.parametrize("name", [name for name in SHAPES if not with_traits(name).qk_norm])
def test_a_pruned_model_equals_the_masked_one(name):
    shape = with_traits(name)
    model, masked = (seeded_model(shape).double() for _ in range(2))
    saliency, recipe = seeded_saliency(seeded_model(shape)), cut_everywhere(shape, embed=shape.width)
    kept = kept_units(shape, recipe, saliency)
    with torch.no_grad():
        for _, tensor, units in axes(masked):
            for axis, unit in enumerate(units):
                if unit is not None and tensor.is_floating_point():
                    mask = torch.zeros(tensor.shape[axis], dtype=tensor.dtype).index_fill_(0, kept[unit], 1)
                    tensor.mul_(mask.view([-1 if d == axis else 1 for d in range(tensor.ndim)]))
    images = seeded_images(shape).double()
    torch.testing.assert_close(prune(model, recipe, saliency)(images), masked(images), rtol=1e-9, atol=1e-9)


@every_trait
def test_elastic_prefixes_are_what_saliency_keeps(name):
    shape = with_traits(name)
    model, images = seeded_model(shape).double(), seeded_images(shape).double()
    by_keys = tome(shape, "keys")  # a mean over heads depends on the order of their units
    saliency, recipe = seeded_saliency(seeded_model(shape)), cut_everywhere(shape, by_keys)
    elastic = ordered(model, saliency).double()
    torch.testing.assert_close(elastic(images), model(images), rtol=1e-9, atol=1e-9)
    pruned, prefix = compress(model, recipe, saliency), compress(elastic, recipe, None)
    torch.testing.assert_close(prefix(images), pruned(images), rtol=1e-9, atol=1e-9)
    assert torch.equal(Nested(elastic, recipe)(images), prefix.patch_scores(images))


@every_trait
def test_training_reaches_every_parameter(name):
    shape = with_traits(name)
    model = seeded_model(shape)
    model(seeded_images(shape)).square().mean().backward()
    idle = {"encoder.norm.weight", "encoder.norm.bias"} if shape.tap_norm == "none" else set()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == idle


@every_trait
def test_nvit_meets_its_target(name):
    shape = with_traits(name)
    model = seeded_model(shape)
    cost = profile(shape, dense(shape))
    target = cost.gflops - 0.4 * cost.encoder  # the convolutions of some heads cannot be pruned
    config = NvitConfig(rounds=2, embed=4, heads=1, qk=2, v=2, mlp=4, tolerance=0.9)
    pruned = nvit(model, seeded_saliency(model), seeded_saliency, target, lambda r: gflops(shape, r), config)
    assert pruned.reached
    assert pruned.model(seeded_images(shape)).isfinite().all()


@every_trait
def test_least_squares_brings_a_cut_model_nearer_to_the_dense_one(name):
    shape = with_traits(name)
    model, images, others = seeded_model(shape), seeded_images(shape, 16, seed=6), seeded_images(shape, 8, seed=5)
    saliency = seeded_saliency(model)
    same = deepcopy(prune(model, dense(shape), saliency))
    reconstruct(same, model, saliency, images)
    torch.testing.assert_close(same(images), model(images), rtol=1e-4, atol=1e-4)
    cut = deepcopy(prune(model, cut_everywhere(shape, embed=shape.width), saliency))

    def error() -> float:
        with torch.no_grad():
            return float((cut.patch_scores(others) - model.patch_scores(others)).square().mean())

    before = error()
    reconstruct(cut, model, saliency, images)
    assert error() < before


@every_trait
def test_files_keep_every_tensor(name, tmp_path):
    shape, images = with_traits(name), seeded_images(with_traits(name))
    model = seeded_model(shape)
    recipe = cut_everywhere(shape)
    pruned = prune(model, recipe, seeded_saliency(model))
    for half, tolerance in ((False, 0), (True, 0.05)):
        checkpoints.save(pruned, tmp_path / "model.safetensors", half=half)
        read = checkpoints.load(tmp_path / "model.safetensors", shape)
        torch.testing.assert_close(read(images), pruned(images), rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", "clip", "no special tokens"])
def test_the_onnx_graph_answers_like_torch(name, tmp_path):
    shape = with_traits(name)
    model = seeded_model(shape)
    built = compress(model, cut_everywhere(shape, tome(shape)), seeded_saliency(model))
    card = models.card_of(built, DATA, CLASSES)
    assert export_onnx(built, card, tmp_path / "model.onnx", seeded_images(shape, 3)) < 1e-4


def test_rotary_position_turns_pairs_by_complex_numbers():
    """In float64: unit j + i * unit (j + D/2), times exp(i * angle), as RoFormer writes it."""
    shape = with_traits("rotary")
    D, grid = shape.head_dim, (3, 4)
    places = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    query, key = torch.randn(2, 2, 4, 7, D - 2, dtype=torch.float64)
    pairs = torch.tensor([[0, 1, 2], [3, 1, 0], [0, 2, 3], [1, 2, 3]])  # each head lost another one
    turned = Rotation(shape, places).rotated(query, key, pairs)
    for before, after in zip((query, key), turned, strict=True):
        for head in range(4):
            for unit, pair in enumerate(pairs[head].tolist()):
                axis, power = divmod(pair, D // 4)
                speed = 2 * math.pi / shape.rope_base ** (4 * power / D)
                angle = (places[..., axis] * speed).double()
                value = torch.complex(before[:, head, :, unit], before[:, head, :, unit + 3])
                expected = value * torch.exp(1j * angle)
                torch.testing.assert_close(after[:, head, :, unit], expected.real, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(after[:, head, :, unit + 3], expected.imag, rtol=1e-5, atol=1e-5)
    centres = patch_places(grid, torch.device("cpu"))
    assert centres[5].tolist() == pytest.approx([0.0, -0.25])


def test_a_merged_token_is_at_the_mean_place_of_its_patches():
    places = patch_places((2, 2), torch.device("cpu"))
    tokens = Tokens(size=torch.tensor([[1.0, 3.0, 1.0]]), source=torch.tensor([[1, 1, 2, 1]]))
    mean = (places[0] + places[1] + places[3]) / 3
    assert torch.equal(token_places(places, tokens), torch.stack([torch.zeros(2), mean, places[2]])[None])


def test_queries_and_keys_are_turned_only_relative_to_each_other():
    """Attention logits of rotary position depend on differences of places, so a shift changes nothing."""
    shape = with_traits("rotary")
    pairs = torch.arange(shape.head_dim // 2).expand(4, -1)
    places, (query, key) = torch.rand(1, 5, 2), torch.randn(2, 1, 4, 5, shape.head_dim)
    logits = []
    for shift in (0.0, 0.3):
        q, k = Rotation(shape, places + shift).rotated(query, key, pairs)
        logits.append(q @ k.transpose(-1, -2))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_a_tensor_without_declared_axes_is_an_error():
    model = seeded_model(TINY)
    model.encoder.scale = nn.Parameter(torch.ones(32))
    with pytest.raises(TypeError, match=r"no module declares the axes of encoder\.scale"):
        prune(model, cut_everywhere(TINY), seeded_saliency(seeded_model(TINY)))


def test_rotary_position_needs_even_widths():
    shape = with_traits("rotary")
    recipe = cut_everywhere(shape)
    odd = recipe.model_copy(update={"blocks": (recipe.blocks[0].model_copy(update={"qk": 5}), *recipe.blocks[1:])})
    with pytest.raises(UserError, match=r"'blocks\.0\.qk' is 5; rotary position needs an even width"):
        check_fits(shape, odd)
    with pytest.raises(UserError, match=r"space\.qk: low 5, step 1: rotary position needs even numbers"):
        _ = Space(shape, SpaceConfig(qk=WidthRange(low=5, step=1)), shape.image).dimensions


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prefix": 4}, r"prefix 4 with 0 registers: expected 0, 1 \(CLS\) or 2 \(CLS, DIST\) others"),
        ({"prefix": 1, "registers": 2}, "prefix 1 with 2 registers"),
        ({"position": "rotary", "heads": 16}, "position rotary: the head width 2 is not a multiple of 4"),
        ({"queries": 3}, "decoder mask with 3 queries: only eomt has queries, and it needs some"),
        ({"decoder": "eomt"}, "decoder eomt with 0 queries"),
        ({"decoder": "eomt", "queries": 3, "query_blocks": 4}, "query_blocks is 4: expected 1 to depth, 3"),
        ({"taps": (2, 1)}, r"taps \(2, 1\): expected ascending blocks from 1 to depth, 3"),
        ({"taps": (1, 4)}, r"taps \(1, 4\)"),
    ],
)
def test_traits_that_contradict_each_other_are_refused(change, line):
    with pytest.raises(ValidationError, match=line):
        ModelShape.model_validate(TINY.model_dump() | change)


@pytest.mark.parametrize(
    "merge",
    [
        Cts(share=0.5, policy="small"),
        Algm(blocks=(1, 2), windows=0.5, pairs=0.2),
        WindowsToMe(windows=0.5, ratios=(0.2, 0.0, 0.0)),
    ],
)
def test_window_methods_name_the_nearest_image_sizes(merge):
    shape = ModelShape.model_validate(TINY.model_dump() | {"patch": 14, "image": (518, 518)})
    with pytest.raises(UserError, match=r"it is 37x37; nearest image sizes: 504x504 or 532x532"):
        gflops(shape, cut_everywhere(shape, merge))
