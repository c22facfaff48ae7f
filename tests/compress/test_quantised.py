# SPDX-License-Identifier: Apache-2.0
"""Models quantised in torch: what each map computes, and agreement with onnxruntime on the exported graph."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.compress.quantised import QuantisedMap, linear_maps, quantised
from raycomp.errors import UserError
from raycomp.merging import Cts, ToMe
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.shape import ModelShape
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency
from tests.helpers.traits import cut_everywhere, with_traits


def merging(shape: ModelShape) -> Segmenter:
    """A pruned model that merges."""
    recipe = cut_everywhere(shape, ToMe(ratios=(0.2, 0.0, 0.3, 0.1)[: shape.depth]))
    return compress(seeded_model(shape), recipe, seeded_saliency(seeded_model(shape)))


@pytest.mark.parametrize(("low", "high"), [(-1.7, 2.9), (0.3, 4.0), (-3.0, -1.0)])
def test_a_map_computes_what_the_textbook_says(low, high):
    """In float64: 0 is in the range of inputs, values beyond it saturate, weights have 129 levels per channel."""
    rng = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(8, 24, generator=rng), torch.randn(8, generator=rng)
    weight[3] = 0
    x = 3 * torch.randn(5, 7, 24, generator=rng)
    least, most = min(low, 0.0), max(high, 0.0)
    step = np.float64(np.float32((most - least) / 255))
    zero = np.rint(-least / ((most - least) / 255))
    levels = np.clip(np.rint(x.double().numpy() / step) + zero, 0, 255) - zero
    scales = np.abs(weight.double().numpy()).max(1, keepdims=True) / 64
    scales[3] = 1
    rounded = np.rint(weight.double().numpy() / scales) * scales
    found = QuantisedMap(weight, bias, low, high)(x)
    np.testing.assert_allclose(found, levels * step @ rounded.T + bias.double().numpy(), rtol=1e-5, atol=1e-5)
    assert found[..., 3].eq(bias[3]).all()


def test_inputs_that_are_always_zero_stay_zero():
    bias = torch.randn(3)
    assert torch.equal(QuantisedMap(torch.randn(3, 4), bias, 0.0, 0.0)(torch.zeros(2, 4)), bias.expand(2, 3))


def test_a_quantised_model_keeps_the_weights_and_leaves_the_model_alone():
    model = merging(TINY)
    images, before = seeded_images(TINY), deepcopy(model.state_dict())
    expected = model(images)
    made = quantised(model, seeded_images(TINY, 4, seed=1))
    assert torch.equal(model(images), expected)
    assert not torch.equal(made(images), expected)
    assert before.keys() == made.state_dict().keys()
    assert all(torch.equal(before[name], weight) for name, weight in made.state_dict().items())
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model.parameters())


def test_ranges_are_those_of_all_calibration_images():
    """The widest of the ranges that the images have alone, so that each end is that of one of them."""
    model, images = merging(TINY), seeded_images(TINY, 5, seed=1)
    alone = [ends(quantised(model, image[None])) for image in images]
    low, high, step = ends(quantised(model, images))
    assert low == pytest.approx(min(one[0] for one in alone), abs=step)
    assert high == pytest.approx(max(one[1] for one in alone), abs=step)


def ends(model: Segmenter) -> tuple[float, float, float]:
    """The range of inputs of an MLP, and the step between its levels."""
    made = model.get_submodule("encoder.blocks.1.mlp.fc1")
    assert isinstance(made, QuantisedMap)
    return -made.scale * made.zero, made.scale * (255 - made.zero), made.scale


def test_a_policy_network_decides_in_float32():
    recipe = dense(TINY).model_copy(update={"merge": Cts(share=0.5, policy="small")})
    model = compress(seeded_model(TINY), recipe, None, Policy("small", TINY.patch).eval())
    names = [name for name, _ in linear_maps(model)]
    assert len(names) == 4 * (TINY.depth + TINY.decoder_depth) + 3
    assert not [name for name in names if "sharer" in name]
    made, images = quantised(model, seeded_images(TINY, 2, seed=1)), seeded_images(TINY)
    assert torch.equal(made.encoder.tapped(images)[-1][1].source, model.encoder.tapped(images)[-1][1].source)


def test_int8_needs_an_image():
    with pytest.raises(UserError, match=r"^int8: no calibration image; ranges of inputs need at least one"):
        quantised(seeded_model(TINY), seeded_images(TINY, 0))


@pytest.mark.slow  # a graph takes seconds to trace
@pytest.mark.parametrize("name", ["rotary", "head eomt", "head linear"])
def test_it_agrees_with_the_exported_graph_in_onnxruntime(name):
    """It quantises the same maps. Both differ from float32 ten times as much as from each other.

    Sums of floats differ in their last digit, which sometimes moves an input to the next of its 256 levels.
    """
    from raycomp.deploy.onnx import graph, open_session
    from raycomp.deploy.precision import linear_maps as of_graph
    from raycomp.deploy.precision import to_int8

    model, images = merging(with_traits(name)), seeded_images(with_traits(name), 6)
    calibration = seeded_images(with_traits(name), 4, seed=1)
    traced = graph(model, images)
    assert len(list(linear_maps(model))) == len(of_graph(traced))
    session = open_session(to_int8(traced, calibration.numpy()).SerializeToString(), torch.device("cpu"), 1)
    wanted = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.inference_mode():
        found, exact = quantised(model, calibration)(images), model(images)
    assert (found - wanted).abs().mean() < 0.1 * (exact - wanted).abs().mean()
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.99
