# SPDX-License-Identifier: Apache-2.0
"""Parameters and memory of a recipe against those of the model that torch builds and runs."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from raycomp.compress.apply import let_merge
from raycomp.compress.quantised import QuantisedMap, quantised
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.footprint import file_size, linear_weights, memory, params
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.policies import policy_params
from raycomp.recipe import Recipe, dense
from raycomp.shape import ModelShape, vit
from tests.conftest import TINY, seeded_images
from tests.helpers.recipes import METHODS, random_merge, random_recipe, without
from tests.helpers.traits import SHAPES, cut_everywhere, with_traits


def built(shape: ModelShape, recipe: Recipe) -> Segmenter:
    model = Segmenter(shape, recipe).eval()
    let_merge(model, recipe, Policy("small", shape.patch).eval())
    return model


def counted(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def recipes(shape: ModelShape, seed: int) -> list[Recipe]:
    """The dense recipe, one with dropped halves, and random ones with every kind of merging."""
    rng, narrow = np.random.default_rng(seed), cut_everywhere(shape)
    found = [dense(shape), narrow, without(narrow, (0,), (1,)), without(dense(shape), (0, 1), (0,))]
    for method in METHODS:
        merge = random_merge(shape, rng, method)
        found += [dense(shape).merging(merge), narrow.merging(merge)]
        found += [random_recipe(shape, rng, method)] if shape.position != "rotary" else []
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_equal_those_of_the_built_model(name):
    shape = with_traits(name)
    for recipe in recipes(shape, seed=len(name)):
        assert params(shape, recipe) == counted(built(shape, recipe)), recipe


def test_vit_small_has_its_published_size():
    """Touvron et al., "Training data-efficient image transformers", table 1: 22 million, of which 0.4 are a classifier;
    timm's vit_small_patch16_224 without classifier has 21,665,664."""
    shape = vit("small", (224, 224), 2, decoder="linear")
    assert params(shape, dense(shape)) == 21_665_664 + 2 * 385


@pytest.mark.parametrize(("kind", "patch"), [("small", 8), ("small", 16), ("efficientnet_lite0", 16)])
def test_parameters_of_policy_networks(kind, patch):
    assert policy_params(kind, patch) == counted(Policy(kind, patch))


@pytest.mark.parametrize("name", SHAPES)
def test_file_size_is_that_of_the_weights_in_a_file(name, tmp_path):
    shape = with_traits(name)
    recipe = cut_everywhere(shape)
    path, model = tmp_path / "model.safetensors", built(shape, recipe)
    checkpoints.save(model, path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    not_learned = sum(model.state_dict()[name].nbytes for name, _ in model.named_buffers())
    assert file_size(shape, recipe) == len(data) - header - not_learned


@pytest.mark.parametrize("name", SHAPES)
def test_weights_of_linear_maps_have_a_byte_each_in_int8(name):
    shape = with_traits(name)
    recipe = cut_everywhere(shape)
    made = quantised(built(shape, recipe), seeded_images(shape, 1))
    maps = [module for module in made.modules() if isinstance(module, QuantisedMap)]
    count = sum(one.levels.numel() for one in maps)
    assert linear_weights(shape, recipe) == count
    assert file_size(shape, recipe) - file_size(shape, recipe.at("int8")) == 3 * count
    plain, less = memory(shape, recipe), memory(shape, recipe.at("int8"))
    assert (plain.weights - less.weights, less.activations) == (3 * count, plain.activations)


def allocated(model: Segmenter, images: torch.Tensor) -> int:
    """Peak of what torch allocates in a forward pass, and the images, bytes."""
    with torch.inference_mode():
        model(images)  # caches positions
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            kept = model(images)
    del kept
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max()) + images.nbytes


@pytest.mark.parametrize("name", SHAPES)
def test_memory_of_tiny_models_is_near_what_torch_allocates(name):
    shape, rng = with_traits(name), np.random.default_rng(0)
    images = torch.randn(2, 3, *shape.image)
    for method in ("none", "mean_keys", "cts"):
        for recipe in (one.merging(random_merge(shape, rng, method)) for one in (dense(shape), cut_everywhere(shape))):
            estimate = memory(shape, recipe, batch=2).activations
            assert 0.75 < estimate / allocated(built(shape, recipe), images) < 1.1, recipe


def test_memory_of_a_model_as_large_as_the_shipped_one():
    shape = ModelShape(width=128, heads=4, depth=8, patch=8, image=(128, 128), classes=11, decoder_depth=1)
    rng, images = np.random.default_rng(0), torch.randn(4, 3, 128, 128)
    for method in ("none", "mean_keys"):
        for recipe in (dense(shape).merging(random_merge(shape, rng, method)), random_recipe(shape, rng, method)):
            model = built(shape, recipe)
            assert memory(shape, recipe, batch=4).activations == pytest.approx(allocated(model, images), rel=0.02)
            assert memory(shape, recipe).weights == sum(parameter.nbytes for parameter in model.parameters())


def test_half_precision_halves_memory_and_a_larger_image_needs_more():
    recipe = cut_everywhere(TINY)
    full, half = memory(TINY, recipe), memory(TINY, recipe, dtype="bfloat16")
    assert (half.weights, half.activations) == (full.weights // 2, full.activations // 2)
    assert memory(TINY, recipe, (96, 128)).activations == pytest.approx(4 * full.activations, rel=0.02)
    assert memory(TINY, recipe, batch=3).activations == 3 * full.activations


def test_adaptive_merging_needs_the_tokens_of_an_image():
    recipe = random_recipe(TINY, np.random.default_rng(1), "adaptive")
    with pytest.raises(ValueError, match="depend on the image"):
        memory(TINY, recipe)
    tokens = tokens_per_block(built(TINY, recipe), torch.zeros(1, 3, *TINY.image))
    assert memory(TINY, recipe, tokens=tokens).activations <= memory(TINY, recipe.merging(None)).activations
