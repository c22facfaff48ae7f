# SPDX-License-Identifier: Apache-2.0
"""Properties of every head: costs, axes, batches, grids of any size, labels."""

import sys
from subprocess import run

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.compress.layout import axes
from raycomp.compress.pruning import kept_units
from raycomp.errors import UserError
from raycomp.evaluate.labels import labels_of_windows, most_likely
from raycomp.flops import gflops, profile
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from tests.conftest import seeded_images, seeded_model, seeded_saliency
from tests.helpers.counting import counted_gflops
from tests.helpers.recipes import random_recipe
from tests.models.heads.shapes import NAMES, shape_of

GRIDS = [{}, {"image": (40, 56)}, {"patch": 14, "image": (42, 70)}, {"image": (44, 61)}]
"""8x6 patches of 8 pixels, 5x7, 3x5 patches of 14 pixels, and partial patches."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_costs_of_dense_models_equal_fvcore(name, grid, monkeypatch):
    shape = shape_of(name, **grid)
    model = Segmenter(shape, dense(shape)).eval()
    assert counted_gflops(model, monkeypatch) == pytest.approx(gflops(shape, dense(shape)), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["mean_keys", "algm", "none"])
def test_costs_of_compressed_models_equal_fvcore(name, method, monkeypatch):
    shape = shape_of(name)
    recipe = random_recipe(shape, np.random.default_rng(3), method)
    model = Segmenter(shape, recipe).eval()
    model.encoder.merger = recipe.merge
    assert counted_gflops(model, monkeypatch) == pytest.approx(gflops(shape, recipe), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_axes_that_read_the_encoder_are_cut(name):
    model = seeded_model(shape_of(name))
    recipe = random_recipe(model.shape, np.random.default_rng(5)).model_copy(update={"embed": 24, "merge": None})
    compressed = compress(model, recipe, seeded_saliency(model))
    fresh = Segmenter(model.shape, recipe)
    assert {n: p.shape for n, p in compressed.named_parameters()} == {n: p.shape for n, p in fresh.named_parameters()}
    declared = {n: units for n, _, units in axes(model)}
    for n, parameter in compressed.decoder.named_parameters():
        if name != "mask":
            embed = [unit == "embed" for unit in declared[f"decoder.{n}"]]
            before = model.decoder.get_parameter(n).shape
            assert parameter.shape == tuple(24 if e else side for e, side in zip(embed, before, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("linear", "mask")])
def test_a_narrower_head_equals_the_head_with_cut_channels_zeroed(name):
    model = seeded_model(shape_of(name))
    saliency = seeded_saliency(model)
    recipe = dense(model.shape).model_copy(update={"embed": 20})
    kept = kept_units(model.shape, recipe, saliency)["embed"]
    narrow = compress(model, recipe, saliency).decoder
    generator = torch.Generator().manual_seed(0)
    features, tokens = [], []
    for tap in model.shape.tapped:
        features.append(torch.randn(2, 32, 5, 6, generator=generator))
        tokens.append(torch.randn(2, model.shape.special(tap - 1), 32, generator=generator))
    mask = torch.zeros(32)
    mask[kept] = 1
    expected = model.decoder([x * mask[:, None, None] for x in features], [x * mask for x in tokens])
    actual = narrow([x[:, kept] for x in features], [x[..., kept] for x in tokens])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_logits_do_not_depend_on_the_batch_size(name, grid):
    shape = shape_of(name, **grid)
    model, images = seeded_model(shape), seeded_images(shape, 3)
    with torch.inference_mode():
        logits = model(images)
        assert logits.shape == (3, 5, *shape.image)
        for index in range(3):
            torch.testing.assert_close(model(images[index : index + 1])[0], logits[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_merging_no_tokens_changes_nothing(name):
    shape = shape_of(name)
    model, images = seeded_model(shape), seeded_images(shape)
    recipe = random_recipe(shape, np.random.default_rng(0), "mean_keys")
    with torch.inference_mode():
        expected = model(images)
        model.encoder.merger = recipe.merge.at(0.0, shape, None)
        assert torch.equal(model(images), expected)
        model.encoder.merger = recipe.merge
        assert model(images).shape == expected.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_labels_are_the_argmax_of_logits(name, grid):
    shape = shape_of(name, **grid)
    model, images = seeded_model(shape), seeded_images(shape)
    form = model.decoder.form
    with torch.inference_mode():
        scores, logits = model.patch_scores(images), model(images)
        assert torch.equal(most_likely(scores, form, shape.image), logits.argmax(1))
        height, width = shape.image
        places = [(slice(0, height), slice(0, width)), (slice(8, 8 + height), slice(0, width))]
        actual = labels_of_windows(scores[None], form, shape.image, places, (height + 8, width), (height + 8, width))
    total = torch.zeros(5, height + 8, width)
    total[:, :height] += logits[0]
    total[:, 8:] += logits[1]
    total[:, 8:height] /= 2
    assert (actual[0] != total.argmax(0)).float().mean() < 1e-3  # near ties


def test_upernet_refuses_a_grid_that_cannot_be_halved():
    shape = shape_of("upernet")
    model = Segmenter(shape, dense(shape))
    for count in (lambda: profile(shape, dense(shape), (8, 64)), lambda: model(torch.zeros(1, 3, 8, 64))):
        with pytest.raises(UserError, match="halves the grid of patches, 1x8; expected at least 2x2"):
            count()


BAD = [
    ("dpt", {"taps": (1, 2)}, "expected 4 of them for decoder dpt"),
    ("upernet", {"taps": (1, 2)}, "expected 1 or 4 of them for decoder upernet"),
    ("mask", {"taps": (2,)}, "decoder mask reads only the last block, 3"),
    ("pup", {"tap_widths": (1, 2, 3, 4)}, "only decoders dpt and upernet have them, not pup"),
    ("dpt", {"tap_widths": (1, 2, 3)}, "expected 4 widths"),
    ("upernet", {"tap_widths": (1, 2, 3, 4)}, "needs equal widths"),
    ("dpt project", {"prefix": 0}, "readout project: the model has no CLS token"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_shapes_that_fit_no_head_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        shape_of(name, **change)


def test_costs_need_no_torch():
    code = "import sys, raycomp.flops, raycomp.decoders; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
