"""Every method's setting at a target, against costs counted elsewhere."""

from dataclasses import replace

import pytest
import torch

from raycomp.benchmark.conditions import Level, cells, levels
from raycomp.benchmark.operating_points import Setting, built, find, from_front, measured_gflops
from raycomp.compress.apply import compress
from raycomp.data.samples import NORMALIZATIONS
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import measure_latency
from raycomp.evaluate.miou import normalised
from raycomp.flops import gflops
from raycomp.merging import Algm, Cts, ToMe
from raycomp.recipe import Recipe, dense
from raycomp.sections import BenchmarkConfig
from tests.helpers.contexts import CLEAN_IMAGES, SHAPE
from tests.helpers.counting import counted
from tests.helpers.rows import row

CPU = torch.device("cpu")
METHODS = {"tome": ToMe, "cts": Cts, "algm": Algm, "nvit": type(None), "nvit+tome": ToMe}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_meets_a_mild_target(base, method):
    setting = find(base, Level(1.25, method), CPU)
    target = gflops(SHAPE, dense(SHAPE)) / 1.25
    assert setting.reached
    assert setting.target == pytest.approx(target)
    steps = 3 / 64 if method == "cts" else 0.012  # a superpatch is three of 64 patches here
    assert setting.gflops == pytest.approx(target, rel=steps)
    assert isinstance(setting.recipe.merge, METHODS[method])
    assert (setting.recipe.embed < SHAPE.width or setting.recipe.blocks != dense(SHAPE).blocks) == ("nvit" in method)


def test_cost_of_adaptive_merging_is_the_mean_of_what_its_images_cost(base, monkeypatch):
    recipe = dense(SHAPE).model_copy(update={"merge": Algm(blocks=(1, 2), threshold=0.9)})
    model = compress(base.model, recipe, base.saliency)
    pixels = NORMALIZATIONS["vit"]
    costs = []
    for image in base.evalset.images.views()[:CLEAN_IMAGES]:
        x = normalised(torch.from_numpy(image[None].copy()), pixels.mean, pixels.std, torch.float32)
        monkeypatch.setattr("raycomp.models.segmenter._padded", lambda x, width: x)
        costs.append(counted(model, SHAPE.image, x) / 1e9)
    assert len(set(costs)) > 1
    assert measured_gflops(base, model, recipe, CPU) == pytest.approx(sum(costs) / len(costs), rel=1e-9)


@pytest.mark.parametrize("method", ["algm", "cts", "nvit"])
def test_a_target_beyond_a_method_is_reported(base, method):
    setting = find(base, Level(500.0, method), CPU)
    assert not setting.reached
    assert setting.gflops > setting.target


def test_a_setting_is_the_same_after_a_round_trip(base, tmp_path):
    level = Level(1.5, "nvit+tome")
    setting = find(base, level, CPU)
    assert Setting.load(tmp_path, level, "mark") is None
    setting.save(tmp_path, level, "mark")
    again = Setting.load(tmp_path, level, "mark")
    assert again.recipe == setting.recipe
    assert (again.gflops, again.target, again.text) == (setting.gflops, setting.target, setting.text)
    weights = setting.pruned.state_dict()
    assert all(torch.equal(again.pruned.state_dict()[name], weight) for name, weight in weights.items())
    with pytest.raises(UserError, match="found with other weights, images or scores"):
        Setting.load(tmp_path, level, "other")


def test_nvit_trains_between_rounds_where_it_is_told_to(base):
    """A step of training changes the weights that stay; without one they are the dense model's."""
    trained = replace(base, config=base.config.changed("nvit", train_between={"steps": 1}))
    scenes = StreetScenes("train", 4)
    plain, between = (find(b, Level(1.5, "nvit"), CPU, samples=scenes) for b in (base, trained))
    assert torch.isin(built(base, plain).encoder.norm.bias, base.model.encoder.norm.bias).all()
    assert not torch.isin(built(base, between).encoder.norm.bias, base.model.encoder.norm.bias).any()
    assert between.reached


def test_a_nvit_setting_merges_as_its_own_recipe_says(base):
    both = find(base, Level(1.5, "nvit+tome"), CPU)
    model = built(base, both)
    assert model.recipe == both.recipe
    assert model.encoder.merger is not None
    assert both.pruned.encoder.merger is None


def test_the_latency_term_changes_what_nvit_prunes(base):
    weighted = replace(base, config=base.config.changed("nvit", latency_weight=1e3))
    table = measure_latency(
        SHAPE, 1, CPU, torch.float32, time=lambda run, x: float(getattr(run, "__name__", "") == "feed")
    )
    plain, timed = (find(b, Level(1.3, "nvit"), CPU, table) for b in (base, weighted))
    assert plain.reached
    assert timed.reached


def test_the_best_of_a_front_that_costs_no_more(base):
    full, text = gflops(SHAPE, dense(SHAPE)), dense(SHAPE).canonical_json()
    members = [
        row(recipe_id=str(i), recipe_json=text, gflops=full * share, clean_miou=clean, corrupted_miou=clean)
        for i, (share, clean) in enumerate([(0.3, 0.4), (0.45, 0.6), (0.9, 0.8)])
    ]
    assert from_front(members, base.saliency, base, Level(2.0, "found")).text == "recipe 1"
    assert not from_front(members, base.saliency, base, Level(5.0, "found")).reached
    assert isinstance(from_front(members, base.saliency, base, Level(2.0, "found")).recipe, Recipe)


def test_a_recipe_of_a_sweep_is_cut_by_the_scores_of_the_sweep(base):
    """The benchmark's own scores are NViT's; the sweep's are others, which keep other units."""
    narrow = dense(SHAPE).model_copy(update={"embed": 32})
    cost, text = gflops(SHAPE, narrow), narrow.canonical_json()
    members = [row(recipe_id="n", recipe_json=text, gflops=cost, clean_miou=0.5, corrupted_miou=0.5)]
    scores = {name: -score for name, score in base.saliency.items()}
    model = built(base, from_front(members, scores, base, Level(1.2, "found")))
    worst = base.saliency["embed"].argsort()[:32].sort().values
    assert torch.equal(model.encoder.norm.bias, base.model.encoder.norm.bias[worst])


def test_seeds_matter_only_where_something_is_random():
    still = BenchmarkConfig(seeds=(0, 1, 2))
    assert len(cells(still, False)) == 16
    tuned = BenchmarkConfig(seeds=(0, 1, 2), recovery={"steps": 5})
    assert len(cells(tuned, False)) == 48
    assert len(levels(tuned, True)) == 19
    assert levels(still, False)[0].label == "dense"
