# SPDX-License-Identifier: Apache-2.0
"""Models of every family are searched: baselines, proposals, elastic training, recovery and latency tables."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raycomp.compress.elastic import ordered
from raycomp.context.sweep_context import SweepContext
from raycomp.deploy.latency_fit import Timing, fitted
from raycomp.flops import gflops
from raycomp.losses import distilled, pixel_loss
from raycomp.recipe import dense
from raycomp.recover import recovered
from raycomp.search.baselines import matched_baselines
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.settings.training import RecoveryConfig
from raycomp.shape import ModelShape
from raycomp.space import Space
from tests.conftest import seeded_images, seeded_model, seeded_saliency
from tests.helpers.contexts import tiny_context
from tests.helpers.traits import SHAPES, with_traits

CPU = torch.device("cpu")
SPACE = SpaceConfig(
    embed=WidthRange(low=16), heads=WidthRange(low=2, step=1), qk=WidthRange(low=4, step=2), mlp=WidthRange(low=40)
)
every_family = pytest.mark.parametrize("name", SHAPES)


def family(name: str) -> ModelShape:
    """Return the shape at the image size of the tiny context."""
    return ModelShape.model_validate(with_traits(name).model_dump() | {"image": (64, 64), "classes": 11})


def context_of(name: str) -> SweepContext:
    context = tiny_context(family(name))
    return replace(context, config=context.config.model_copy(update={"space": SPACE}))


@every_family
def test_a_search_measures_baselines_and_proposals(name, tmp_path):
    context = context_of(name)
    space, rng = Space.of(context.config, context.shape), np.random.default_rng(0)
    full, low = space.gflops({}), space.gflops(space.smallest)
    shares = (1 - 0.3 * (1 - low / full),)
    baselines = list(matched_baselines(space.shape, space.image, shares, narrowest=space.recipe(space.smallest)))
    drawn = [space.recipe(space.draw(rng, low)) for _ in range(2)]
    assert {"dense", "prune", "tome", "prune+tome"} == {
        recipe.family(space.shape) for recipe in (dense(space.shape), *(one.recipe for one in baselines))
    }
    for recipe in (dense(space.shape), *(one.recipe for one in baselines), *drawn):
        row = run_trial(context, None, Proposal(0, "search", "proposed", "", recipe), tmp_path, CPU, "")
        assert row.status == "complete", row.error
        assert row.gflops == pytest.approx(gflops(space.shape, recipe))
        assert row.clean_miou is not None
        assert space.recipe(space.params(recipe)).embed == recipe.embed


@every_family
def test_elastic_training_lowers_its_loss(name):
    shape = family(name)
    space = Space(shape, SPACE, shape.image)
    teacher, rng = seeded_model(shape), np.random.default_rng(0)
    model = ordered(teacher, seeded_saliency(teacher)).train()
    images, labels = seeded_images(shape), torch.randint(0, 11, (2, 64, 64))
    recipes = [dense(shape), space.recipe(space.draw(rng, space.gflops(space.smallest)))]
    loss = distilled(teacher, 1.0, lambda seed: recipes)
    optimizer, totals = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(6):
        torch.manual_seed(0)
        optimizer.zero_grad()
        totals.append(0.0)
        for part in loss(model, images, labels):
            part.backward()
            totals[-1] += float(part)
        optimizer.step()
    assert totals[-1] < totals[0]


@every_family
def test_training_lowers_the_loss_of_the_head(name):
    model, images = seeded_model(family(name)).train(), seeded_images(family(name))
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    labels[:, 20:] = 7
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(8):
        torch.manual_seed(0)
        optimizer.zero_grad()
        [loss] = pixel_loss(model, images, labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@every_family
def test_recovery_refits_cut_models(name, tmp_path):
    context = context_of(name)
    calibration = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    config = context.config.model_copy(update={"recovery": RecoveryConfig(mode="reconstruct")})
    context = replace(context, config=config, calibration=calibration)
    space = Space.of(config, context.shape)
    recipe = space.recipe(space.smallest)
    refitted, cut = recovered(context, recipe, None, CPU, tmp_path), context.cut(recipe)
    with torch.no_grad():
        images = seeded_images(context.shape)
        assert not torch.equal(refitted(images), cut(images))
        assert refitted(images).isfinite().all()


@every_family
def test_latency_tables_predict_every_recipe(name):
    shape = family(name)
    space = Space(shape, SPACE, shape.image)
    table = fitted(space, Timing(1, CPU), lambda runs: {key: float(run() is not None) for key, run in runs.items()}, 6)
    assert table.latency_ms(dense(shape)) == pytest.approx(1e3, rel=0.3), "all models took a second"
    assert table.latency_ms(space.recipe(space.smallest)) > 0
