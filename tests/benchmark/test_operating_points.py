# SPDX-License-Identifier: Apache-2.0
"""Every method's point at a target, against costs counted elsewhere."""

from dataclasses import replace

import pytest
import torch

from raycomp.benchmark.conditions import Condition, conditions, runs
from raycomp.benchmark.operating_points import OperatingPoint, built, find, from_front, measured_gflops
from raycomp.compress.apply import compress
from raycomp.data.samples import NORMALIZATIONS
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.evaluate.sliding import normalised
from raycomp.flops import gflops
from raycomp.merging import Algm, Cts, ToMe
from raycomp.recipe import Recipe, dense
from raycomp.settings.comparison import BenchmarkConfig
from tests.helpers.contexts import CLEAN_IMAGES, SHAPE
from tests.helpers.counting import counted
from tests.helpers.rows import row
from tests.helpers.tables import table_of

CPU = torch.device("cpu")
METHODS: dict[str, type] = {"tome": ToMe, "cts": Cts, "algm": Algm, "nvit": type(None), "nvit+tome": ToMe}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_meets_a_mild_target(context, method):
    point = find(context, Condition(1.25, method), CPU)
    target = gflops(SHAPE, dense(SHAPE)) / 1.25
    assert point.reached
    assert point.target == pytest.approx(target)
    steps = 3 / 64 if method == "cts" else 0.012  # a superpatch is three of 64 patches here
    assert point.gflops == pytest.approx(target, rel=steps)
    assert isinstance(point.recipe.merge, METHODS[method])
    assert (point.recipe.embed < SHAPE.width or point.recipe.blocks != dense(SHAPE).blocks) == ("nvit" in method)


def test_cost_of_adaptive_merging_is_the_mean_of_what_its_images_cost(context, monkeypatch):
    recipe = dense(SHAPE).model_copy(update={"merge": Algm(blocks=(1, 2), threshold=0.9)})
    model = compress(context.model, recipe, context.saliency)
    pixels = NORMALIZATIONS["vit"]
    costs = []
    for image in context.evalset.images.views()[:CLEAN_IMAGES]:
        x = normalised(torch.from_numpy(image[None].copy()), pixels.mean, pixels.std, torch.float32)
        monkeypatch.setattr("raycomp.models.block._padded", lambda x, width: x)
        costs.append(counted(model, SHAPE.image, x) / 1e9)
    assert len(set(costs)) > 1
    assert measured_gflops(context, model, recipe, CPU) == pytest.approx(sum(costs) / len(costs), rel=1e-9)


@pytest.mark.parametrize("method", ["algm", "cts", "nvit"])
def test_a_target_beyond_a_method_is_reported(context, method):
    point = find(context, Condition(500.0, method), CPU)
    assert not point.reached
    assert point.gflops > point.target


def test_a_setting_is_the_same_after_a_round_trip(context, tmp_path):
    condition = Condition(1.5, "nvit+tome")
    point = find(context, condition, CPU)
    assert OperatingPoint.load(tmp_path, condition, "mark") is None
    point.save(tmp_path, condition, "mark")
    again = OperatingPoint.load(tmp_path, condition, "mark")
    assert again.recipe == point.recipe
    assert (again.gflops, again.target, again.text) == (point.gflops, point.target, point.text)
    weights = point.pruned.state_dict()
    assert all(torch.equal(again.pruned.state_dict()[name], weight) for name, weight in weights.items())
    with pytest.raises(UserError, match="found with other weights, images or scores"):
        OperatingPoint.load(tmp_path, condition, "other")


def test_nvit_trains_between_rounds_where_it_is_told_to(context):
    """A step of training changes the weights that stay; without one they are the dense model's."""
    trained = replace(context, config=context.config.changed("nvit", train_between={"steps": 1}))
    scenes = StreetScenes("train", 4)
    plain, between = (find(b, Condition(1.5, "nvit"), CPU, samples=scenes) for b in (context, trained))
    assert torch.isin(built(context, plain).encoder.norm.bias, context.model.encoder.norm.bias).all()
    assert not torch.isin(built(context, between).encoder.norm.bias, context.model.encoder.norm.bias).any()
    assert between.reached


def test_a_nvit_setting_merges_as_its_own_recipe_says(context):
    both = find(context, Condition(1.5, "nvit+tome"), CPU)
    model = built(context, both)
    assert model.recipe == both.recipe
    assert model.encoder.merger is not None
    assert both.pruned.encoder.merger is None


def test_the_latency_term_changes_what_nvit_prunes(context):
    weighted = replace(context, config=context.config.changed("nvit", latency_weight=1e3))
    table = table_of(SHAPE, "", hidden=1e-4)
    plain, timed = (find(b, Condition(1.3, "nvit"), CPU, table) for b in (context, weighted))
    assert plain.reached
    assert timed.reached


def test_the_best_of_a_front_that_costs_no_more(context):
    full, text = gflops(SHAPE, dense(SHAPE)), dense(SHAPE).canonical_json()
    members = [
        row(recipe_id=str(i), recipe_json=text, gflops=full * share, clean_miou=clean, corrupted_miou=clean)
        for i, (share, clean) in enumerate([(0.3, 0.4), (0.45, 0.6), (0.9, 0.8)])
    ]
    assert from_front(members, context.saliency, context, Condition(2.0, "found")).text == "recipe 1"
    assert not from_front(members, context.saliency, context, Condition(5.0, "found")).reached
    assert isinstance(from_front(members, context.saliency, context, Condition(2.0, "found")).recipe, Recipe)


def test_a_recipe_of_a_sweep_is_cut_by_the_scores_of_the_sweep(context):
    """The benchmark's own scores are NViT's; the sweep's are others, which keep other units."""
    narrow = dense(SHAPE).model_copy(update={"embed": 32})
    cost, text = gflops(SHAPE, narrow), narrow.canonical_json()
    members = [row(recipe_id="n", recipe_json=text, gflops=cost, clean_miou=0.5, corrupted_miou=0.5)]
    scores = {name: -score for name, score in context.saliency.items()}
    model = built(context, from_front(members, scores, context, Condition(1.2, "found")))
    worst = context.saliency["embed"].argsort()[:32].sort().values
    assert torch.equal(model.encoder.norm.bias, context.model.encoder.norm.bias[worst])


def test_seeds_matter_only_where_something_is_random():
    still = BenchmarkConfig(seeds=(0, 1, 2))
    assert len(runs(still, False)) == 16
    tuned = BenchmarkConfig(seeds=(0, 1, 2), recovery={"steps": 5})
    assert len(runs(tuned, False)) == 48
    assert len(conditions(tuned, True)) == 19
    assert conditions(still, False)[0].label == "dense"
