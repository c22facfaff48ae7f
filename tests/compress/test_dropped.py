# SPDX-License-Identifier: Apache-2.0
"""Models without the attention or the MLP of some blocks, from the recipe to the trial."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raycomp.compress.apply import compress
from raycomp.compress.elastic import Nested, ordered
from raycomp.compress.nvit import nvit
from raycomp.compress.pruning import prune
from raycomp.compress.reconstruct import reconstruct
from raycomp.errors import UserError
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.flops import gflops, profile
from raycomp.merging import Algm, ToMe
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.recipe import BlockWidths, Recipe, check_fits, dense
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.settings.comparison import NvitConfig
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency
from tests.helpers.counting import counted_gflops
from tests.helpers.recipes import METHODS, random_recipe, without
from tests.helpers.traits import cut_everywhere, with_traits

CPU = torch.device("cpu")
DROPS: list[dict[str, tuple[int, ...]]] = [
    {"attention": (1,)},
    {"mlp": (0,)},
    {"attention": (0, 2), "mlp": (1, 2)},
    {"attention": (0, 1, 2), "mlp": (0, 1, 2)},
]
SHAPES = ["all", "swiglu", "head mask", "head eomt", "head dpt"]


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_dropped_half_adds_nothing_to_the_stream(name, drop):
    """As if its output projection were zero."""
    shape = with_traits(name)
    model, images = seeded_model(shape).double(), seeded_images(shape).double()
    silent = deepcopy(model)
    with torch.no_grad():
        for half, layer in (("attention", "attn.proj"), ("mlp", "mlp.fc2")):
            for index in drop.get(half, ()):
                projection = silent.encoder.blocks[index].get_submodule(layer)
                projection.weight.zero_()
                projection.bias.zero_()
    saliency = seeded_saliency(seeded_model(shape))
    recipe = without(dense(shape), **drop)
    made = compress(model, recipe, saliency)
    torch.testing.assert_close(made(images), silent(images), rtol=1e-9, atol=1e-9)
    assert not {n for n, _ in made.named_parameters()} - {n for n, _ in model.named_parameters()}
    for index in drop.get("attention", ()):
        assert not any(f"encoder.blocks.{index}.{part}." in made.state_dict() for part in ("norm1", "attn"))


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_prefix_of_an_elastic_model_is_what_saliency_keeps(name, drop):
    shape = with_traits(name)
    model, images = seeded_model(shape).double(), seeded_images(shape).double()
    saliency = seeded_saliency(seeded_model(shape))
    recipe = without(cut_everywhere(shape), **drop)
    elastic = ordered(model, saliency).double()
    prefix = compress(elastic, recipe, None)
    torch.testing.assert_close(prefix(images), compress(model, recipe, saliency)(images), rtol=1e-9, atol=1e-9)
    merging = recipe.merging(ToMe(ratios=(0.2, 0.3, 0.1, 0.2)[: shape.depth]))
    scores = Nested(elastic, merging)(images)
    assert torch.equal(scores, compress(elastic, merging, None).patch_scores(images))
    scores.square().mean().backward()
    for half, parts in (("attention", ("norm1", "attn")), ("mlp", ("norm2", "mlp"))):
        for index in drop.get(half, ()):
            for part in parts:
                gone = elastic.encoder.blocks[index].get_submodule(part).parameters()
                assert all(one.grad is None for one in gone)


@pytest.mark.fast_cases(8)
@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("method", METHODS)
def test_gflops_and_tokens_are_those_of_the_model(method, drop, model, saliency, monkeypatch):
    recipe = without(random_recipe(TINY, np.random.default_rng(1), method), **drop)
    made = compress(model, recipe, saliency, Policy("small", TINY.patch).eval())
    tokens = tokens_per_block(made, torch.zeros(1, 3, *TINY.image))
    expected = profile(TINY, recipe, tokens=tokens if recipe.adaptive else None)
    assert tuple(tokens) == expected.tokens
    assert counted_gflops(made, monkeypatch) == pytest.approx(expected.gflops, abs=1e-9)
    for index in set(drop.get("attention", ())) & set(drop.get("mlp", ())):
        if method not in ("algm", "adaptive"):
            assert expected.blocks[index] == 0


@pytest.mark.parametrize("name", SHAPES)
def test_counts_equal_fvcore_for_other_models(name, monkeypatch):
    shape = with_traits(name)
    recipe = without(cut_everywhere(shape), (0,), (1,))
    made = compress(seeded_model(shape), recipe, seeded_saliency(seeded_model(shape)))
    assert counted_gflops(made, monkeypatch) == pytest.approx(gflops(shape, recipe), abs=1e-9)


def test_algm_merges_in_a_block_without_attention(model, saliency):
    recipe = without(dense(TINY).merging(Algm(blocks=(1, 2), windows=0.5, pairs=0.25)), (0, 1), (1,))
    made = compress(model, recipe, saliency)
    assert tokens_per_block(made, seeded_images(TINY, 1)) == [2 + 48 - 18, 2 + 30 - 8, 2 + 22]


def test_what_saliency_nvit_and_reconstruction_do_with_it(model, saliency):
    recipe = without(cut_everywhere(TINY), (1,), (0,))
    made = deepcopy(prune(model, recipe, saliency))
    scores = seeded_saliency(made)
    assert not {"block.1.head", "block.1.qk", "block.1.v", "block.0.mlp"} & set(scores)
    config = NvitConfig(embed=8, heads=1, qk=2, v=2, mlp=8, rounds=2)
    target = 0.7 * gflops(TINY, recipe)
    found = nvit(made, scores, seeded_saliency, target, lambda r: gflops(TINY, r), config)
    assert found.reached
    widths = found.model.recipe.blocks
    assert [b.heads == 0 for b in widths] == [False, True, False]
    assert [b.mlp == 0 for b in widths] == [True, False, False]
    assert found.model(seeded_images(TINY)).shape == (2, 5, *TINY.image)

    others = seeded_images(TINY, 8, seed=5)

    def error() -> float:
        with torch.no_grad():
            return float((made.patch_scores(others) - model.patch_scores(others)).square().mean())

    before = error()
    reconstruct(made, model, saliency, seeded_images(TINY, 16, seed=6))
    assert error() < before


def test_a_checkpoint_keeps_it(model, saliency, tmp_path):
    recipe = without(cut_everywhere(TINY, ToMe(ratios=(0.2, 0.3, 0.1))), (1,), (0,))
    made = compress(model, recipe, saliency)
    checkpoints.save(made, tmp_path / "m.safetensors")
    again = checkpoints.load(tmp_path / "m.safetensors")
    assert again.recipe == recipe
    compared = compress(again, recipe, None)
    assert torch.equal(compared(seeded_images(TINY)), made(seeded_images(TINY)))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean_keys", "algm"])
def test_the_onnx_graph_answers_like_torch(model, saliency, method, tmp_path):
    from raycomp.deploy import model as models
    from raycomp.deploy.onnx import export_onnx, export_program
    from tests.helpers.deploy import CLASSES, DATA

    recipe = without(random_recipe(TINY, np.random.default_rng(3), method), (0, 1), (1, 2))
    made = deepcopy(compress(model, recipe, saliency))
    card = models.card_of(made, DATA, CLASSES)
    assert export_onnx(made, card, tmp_path / "made.onnx", seeded_images(TINY, 5)) < 1e-4
    assert export_program(made, card, tmp_path / "made.pt2", seeded_images(TINY, 5)) < 1e-4


@pytest.mark.parametrize("mode", ["none", "reconstruct"])
def test_a_trial_measures_it(context, mode, tmp_path):
    recipe = without(cut_everywhere(context.shape, ToMe(ratios=(0.2,) * 4)), (1,), (0, 1))
    changed = replace(context, config=context.config.changed("recovery", mode=mode))
    if mode == "reconstruct":
        changed = replace(changed, calibration=np.zeros((2, 64, 64, 3), np.uint8) + 90)
    row = run_trial(changed, None, Proposal(0, "search", "proposed", "", recipe), tmp_path, CPU, "")
    assert (row.status, row.error) == ("complete", "")
    assert (row.recipe, row.heads, row.mlp) == (recipe, [3, 0, 1, 2], [0, 0, 256, 40])
    assert row.gflops_blocks[1] == 0
    assert row.tokens[1] == row.tokens[0]


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"heads": 0, "qk": 8, "v": 8}, "heads 0, qk 8, v 8: a block without attention has 0 of all three"),
        ({"heads": 2, "qk": 0, "v": 8}, "heads 2, qk 0, v 8: a block without attention has 0 of all three"),
        ({"heads": 2, "qk": 8, "v": 0}, "heads 2, qk 8, v 0: a block without attention has 0 of all three"),
        ({"heads": -1, "qk": 8, "v": 8}, "greater than or equal to 0"),
    ],
)
def test_half_an_attention_is_refused(widths, said):
    with pytest.raises(ValidationError, match=said):
        BlockWidths(**widths, mlp=8)


def test_merging_without_keys_is_refused_and_left_out_by_schedules():
    blocks = without(dense(TINY), (1,)).blocks
    with pytest.raises(
        ValidationError, match=r"by ToMe compares keys, which blocks without attention \(1\) do not have"
    ):
        Recipe(embed=32, blocks=blocks, merge=ToMe(ratios=(0, 0.1, 0)))
    recipe = Recipe(embed=32, blocks=blocks).merging(ToMe(ratios=(0.1, 0.1, 0.2), metric="keys"))
    assert recipe.merge == ToMe(ratios=(0.1, 0.0, 0.2), metric="keys")
    assert Recipe(embed=32, blocks=blocks).merging(ToMe(ratios=(0, 0.1, 0))).merge is None


def test_it_fits_any_model_of_its_depth():
    check_fits(TINY, without(dense(TINY), (0, 1, 2), (0, 1, 2)))
    check_fits(with_traits("all"), without(cut_everywhere(with_traits("all")), (0,)))
    with pytest.raises(UserError, match="'blocks' has 3 entries, the model 4"):
        check_fits(TINY.model_copy(update={"depth": 4}), without(dense(TINY), (0,)))


def test_ids_of_recipes_that_drop_nothing_stay_what_they_were():
    """Taken from the release before sublayers could be dropped."""
    blocks = (BlockWidths(heads=2, qk=8, v=8, mlp=64),) * 3
    merges = None, ToMe(ratios=(0.25, 0, 0.5)), Algm(blocks=(1, 2), windows=0.5, pairs=0.25)
    ids = [dense(TINY).id, *(Recipe(embed=24, blocks=blocks, merge=merge).id for merge in merges[1:])]
    assert ids == ["fc097a93c3dc", "0231f7a80b3c", "f9e33977cd91"]
