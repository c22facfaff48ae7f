# SPDX-License-Identifier: Apache-2.0
"""What holds for every merge method in the union: a new one is covered by adding it there."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import raycomp
from raycomp.benchmark.conditions import Condition, conditions
from raycomp.benchmark.operating_points import built, find
from raycomp.benchmark.timing import batched
from raycomp.compress.apply import compress
from raycomp.compress.elastic import Nested
from raycomp.data.samples import NORMALIZATIONS
from raycomp.deploy import model as models
from raycomp.deploy.latency_fit import Timing, fitted
from raycomp.deploy.onnx import export_onnx
from raycomp.errors import UserError
from raycomp.evaluate.sliding import normalised
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.flops import gflops, profile
from raycomp.match_cost import match_cost
from raycomp.merging import METHODS, MergeMethod
from raycomp.models.policy import Policy
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.results.query import is_uniform_baseline, uniform_baselines, uniform_baselines_of
from raycomp.search.baselines import matched_baselines
from raycomp.search.point_costs import PointCosts
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.settings.comparison import BenchmarkConfig
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.shape import deit_base_distilled
from raycomp.space import Space
from tests.conftest import TINY, seeded_images
from tests.helpers.contexts import SHAPE
from tests.helpers.counting import counted_gflops
from tests.helpers.rows import row

CPU = torch.device("cpu")
PAPER = deit_base_distilled((512, 512), 150)  # large enough for a policy network to pay
GREY = (0.5, 0.5, 0.5)
FACTS = models.ModelCard(classes=tuple("abcde"), mean=GREY, std=GREY, window=(48, 64), stride=48, short_side=None)
NARROW = Recipe(embed=24, blocks=(BlockWidths(heads=3, qk=4, v=8, mlp=64),) * 3)
STRENGTHS = (0.1, 0.5, 1.0)
every_method = pytest.mark.parametrize("name", METHODS)


def run_once(runs):
    """In place of a clock: run every model, and say that each took a second."""
    return {key: float(run() is not None) for key, run in runs.items()}


def fixed(name: str, strength: float, shape=TINY) -> MergeMethod:
    """A method at fixed counts, which are known before an image is."""
    return METHODS[name].standard(shape, "small").schedules(shape, shape.image)["uniform"](strength)


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    return Policy("small", TINY.patch).eval()


def space(name: str) -> Space:
    widths = {"embed": WidthRange(low=16), "mlp": WidthRange(low=32, step=16)}
    return Space(TINY, SpaceConfig(**widths, merge=name), TINY.image, policy="small")


@every_method
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_built_model_has_the_tokens_and_the_cost_that_were_predicted(
    name, strength, model, saliency, policy, monkeypatch
):
    recipe = NARROW.merging(fixed(name, strength))
    compressed, cost = compress(model, recipe, saliency, policy), profile(TINY, recipe)
    assert tuple(tokens_per_block(compressed, seeded_images(TINY, 1))) == cost.tokens
    assert cost.tokens[-1] < 48 + 2
    assert counted_gflops(compressed, monkeypatch) == pytest.approx(cost.gflops, rel=1e-9)


@every_method
def test_sizes_add_up_and_every_patch_finds_its_token(name, model, saliency, policy):
    recipe = dense(TINY).merging(fixed(name, 0.6))
    features, tokens = compress(model, recipe, saliency, policy).encoder(seeded_images(TINY))
    assert tokens.size.sum(1).tolist() == [48 + 2, 48 + 2]
    assert tokens.size.shape[1] == features.shape[1]
    patches = torch.zeros_like(tokens.size).scatter_add_(1, tokens.source, torch.ones(2, 48))
    assert torch.equal(patches[:, 2:], tokens.size[:, 2:])


@every_method
def test_the_adaptive_form_costs_what_its_tokens_do(name, model, saliency, policy, monkeypatch):
    start = METHODS[name].standard(TINY, "small")
    recipe = dense(TINY).merging(start.at(0.5, TINY, TINY.image))
    compressed = compress(model, recipe, saliency, policy)
    tokens = tokens_per_block(compressed, torch.zeros(1, 3, *TINY.image))
    known_before = None if recipe.adaptive else profile(TINY, recipe).tokens
    assert known_before in (None, tuple(tokens))
    cost = gflops(TINY, recipe, tokens=tokens if recipe.adaptive else None)
    assert counted_gflops(compressed, monkeypatch) == pytest.approx(cost, rel=1e-9)


@every_method
def test_recipes_come_back_from_text_with_their_id_and_family(name):
    recipe = dense(TINY).merging(fixed(name, 0.5))
    assert Recipe.model_validate_json(recipe.canonical_json()).id == recipe.id
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe
    assert recipe.family(TINY) == name
    assert NARROW.merging(recipe.merge).family(TINY) == f"prune+{name}"


@every_method
def test_merging_nothing_is_no_merging(name):
    merge = fixed(name, 0.0)
    assert merge.empty
    assert dense(TINY).merging(merge).id == dense(TINY).id
    assert not fixed(name, 0.5).empty


@every_method
def test_a_space_has_its_dimensions_and_gives_its_points_back(name, rng):
    grid = space(name)
    names = [n for n in grid.dimensions if n.partition("_")[0] == "merge"]
    assert tuple(names) == fixed(name, 0.5).dimensions
    for _ in range(20):
        point = {n: int(rng.choice(range(d.low, d.high + 1, d.step))) for n, d in grid.dimensions.items()}
        recipe = grid.recipe(point)
        assert grid.params(recipe) == point
        assert grid.outside(recipe) == ""
    assert grid.recipe(grid.smallest).merge == grid.merging.with_searched(dict.fromkeys(names, 0.5))


@every_method
def test_a_space_meets_its_budget_and_draws_recipes_that_merge(name):
    grid, full = space(name), gflops(TINY, dense(TINY))
    budget = 0.5 * (full + grid.gflops(grid.smallest))
    grid.check_budget(budget)
    drawn = [grid.draw(np.random.default_rng(seed), budget) for seed in range(20)]
    assert all(grid.gflops(grid.project(point, budget)) <= budget for point in drawn)
    assert name in {grid.recipe(point).family(TINY).removeprefix("prune+") for point in drawn}
    assert grid.gflops(grid.narrowest(0.0)) == grid.gflops(grid.smallest)


@every_method
def test_many_points_are_counted_at_once(name, rng):
    grid = space(name)
    dimensions = list(grid.dimensions.values())
    steps = np.array([[rng.integers(0, (d.high - d.low) // d.step + 1) for d in dimensions] for _ in range(20)])
    costs, tokens = PointCosts(grid)(steps)
    for step, cost, left in zip(steps, costs, tokens, strict=True):
        sign = [1 if d.full == d.low else -1 for d in dimensions]
        point = {d.name: int(d.full + s * d.step * n) for d, s, n in zip(dimensions, sign, step, strict=True)}
        expected = profile(TINY, grid.recipe(point))
        assert cost == pytest.approx(expected.gflops, rel=1e-9)
        assert tuple(left) == expected.tokens


@every_method
def test_a_space_of_another_method_refuses_it(name):
    other = next(one for one in METHODS if one not in (name, "windows_tome"))  # which has all recipes of tome
    problem = space(other).outside(dense(TINY).merging(fixed(name, 0.5)))
    assert problem == f"merge.method is {name!r}, the space has only {other!r}"


@every_method
def test_a_space_refuses_what_adapts_to_the_image(name):
    recipe = dense(TINY).merging(METHODS[name].standard(TINY, "small"))
    assert ("adaptive" in space(name).outside(recipe)) == recipe.adaptive


@every_method
def test_known_recipes_merge_by_it_and_cost_at_most_their_share(name):
    full = gflops(PAPER, dense(PAPER))
    found = list(matched_baselines(PAPER, PAPER.image, (0.8,), merging=METHODS[name].standard(PAPER, "small")))
    expected = uniform_baselines(METHODS[name].title)
    assert {one.kind for one in found} >= set(expected)
    assert uniform_baselines_of(row(label=one.label) for one in found) == expected
    assert {one.kind for one in found if is_uniform_baseline(one.label)} == set(expected)
    assert all(gflops(PAPER, one.recipe) <= 0.8 * full for one in found)
    assert all(one.recipe.merge.method == name for one in found if one.kind != expected[1])


@every_method
def test_its_strength_is_matched_to_a_cost(name):
    whole = dense(PAPER)
    target = 0.7 * gflops(PAPER, whole)
    matched = match_cost(lambda s: whole.merging(fixed(name, s, PAPER)), lambda recipe: gflops(PAPER, recipe), target)
    assert matched.below_cost <= target < matched.above_cost
    assert matched.nearest(target, 0.01)[1] == pytest.approx(target, rel=0.01)


@every_method
@pytest.mark.parametrize("prefix", ["", "nvit+"])
def test_a_benchmark_matches_it_alone_and_after_pruning(name, prefix, context):
    condition = Condition(1.25, prefix + name)
    assert condition in conditions(BenchmarkConfig(methods=(prefix + name,), speedups=(1.25,)), with_found=False)
    point = find(context, condition, CPU)
    assert point.reached
    assert point.text.endswith(point.recipe.merge.operating_point(SHAPE, SHAPE.image))
    assert (point.pruned is not None) == bool(prefix)
    pixels = NORMALIZATIONS[SHAPE.normalization]
    image = torch.from_numpy(context.evalset.images.views()[0][None].copy())
    x = normalised(image, pixels.mean, pixels.std, torch.float32)
    recipe = batched(context, point, x)
    assert not recipe.adaptive
    made = tokens_per_block(built(context, point), x)
    assert profile(SHAPE, recipe).tokens[-1] == pytest.approx(made[-1], abs=1)


@every_method
def test_a_trial_measures_it(name, context, tmp_path):
    recipe = dense(SHAPE).merging(fixed(name, 0.4, SHAPE))
    measured = run_trial(context, None, Proposal(0, "search", "proposed", "", recipe), tmp_path, CPU, "")
    assert (measured.status, measured.family) == ("complete", name)
    assert measured.gflops == pytest.approx(gflops(SHAPE, recipe))
    assert measured.ratios == list(recipe.ratios)


@every_method
def test_a_written_model_comes_back(name, model, saliency, policy, tmp_path):
    made, images = compress(model, NARROW.merging(fixed(name, 0.5)), saliency, policy), seeded_images(TINY)
    models.save(made, FACTS, tmp_path / "made.safetensors")
    assert torch.equal(raycomp.load(str(tmp_path / "made.safetensors"))(images), made(images))


@pytest.mark.slow
@every_method
def test_an_exported_graph_answers_like_torch(name, model, saliency, policy, tmp_path):
    made = compress(model, NARROW.merging(fixed(name, 0.5)), saliency, policy)
    assert export_onnx(made, FACTS, tmp_path / "made.onnx", seeded_images(TINY, 3)) < 1e-4


@every_method
def test_gradients_reach_the_weights_through_it(name, model, saliency, policy):
    trained = compress(model, NARROW.merging(fixed(name, 0.5)), saliency, policy).train()
    trained(seeded_images(TINY)).square().mean().backward()
    assert trained.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


@every_method
def test_an_elastic_model_is_trained_over_it_unless_it_needs_a_policy(name, model):
    recipe = dense(TINY).merging(fixed(name, 0.5))
    if METHODS[name].needs_policy:
        with pytest.raises(UserError, match="trained without a policy network"):
            Nested(model, recipe)
    else:
        assert Nested(model, recipe)(seeded_images(TINY)).shape == (2, 5, 6, 8)


@every_method
def test_a_latency_table_times_it(name):
    table = fitted(space(name), Timing(1, CPU), run_once, 3)
    assert table.method == name
    assert table.latency_ms(dense(TINY).merging(fixed(name, 0.5))) > 0


def test_recipes_costs_and_spaces_start_without_torch():
    names = "cli config flops recipe merging space search.baselines match_cost benchmark.conditions"
    imports = "; ".join(f"import raycomp.{name}" for name in names.split())
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
