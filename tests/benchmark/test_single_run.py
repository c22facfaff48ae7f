# SPDX-License-Identifier: Apache-2.0
"""One run: rows, recovery and pictures; and speeds of all."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from raycomp.benchmark.conditions import Condition, Run
from raycomp.benchmark.operating_points import OperatingPoint, built, find
from raycomp.benchmark.pictures import Pictures, scenes
from raycomp.benchmark.single_run import failed_row, measure_run, unreachable
from raycomp.benchmark.timing import Timing, batched, time_points
from raycomp.data.streetscenes import StreetScenes
from raycomp.flops import gflops
from raycomp.merging import Algm
from raycomp.recipe import dense
from raycomp.results.store import Store
from tests.helpers.contexts import SHAPE

CPU = torch.device("cpu")


def point(context, method: str, tmp_path) -> tuple[Run, OperatingPoint]:
    condition = Condition(1.25, method)
    return Run(condition, 0), find(context, condition, CPU)


def with_recovery(context, steps: int):
    config = context.config.changed("benchmark", recovery={"steps": steps, "lr": 1e-2})
    return replace(context, config=config)


@pytest.mark.parametrize("method", ["dense", "tome", "cts", "algm", "nvit", "nvit+tome"])
def test_a_run_gives_a_complete_row_and_its_pictures(context, method, tmp_path):
    run, found = point(context, method, tmp_path)
    made = measure_run(context, None, run, found, tmp_path / "state.pt", CPU, "commit")
    row, kept = made.row, made.pictures
    assert row.status == "complete", row.error
    assert row.gflops == pytest.approx(found.gflops, rel=1e-9)
    assert row.recipe_id == found.recipe.id
    assert len(row.corrupted_by_variant) == 80
    store = Store(tmp_path)
    store.open(context.config)
    store.write(row)
    assert [path.name for path in store.files()] == [f"{row.identity}.parquet"]
    assert kept.predictions.shape == (3, 64, 64)
    assert kept.sources.shape == (3, 8, 8)
    kept.save(tmp_path / "kept.npz")
    assert np.array_equal(Pictures.load(tmp_path / "kept.npz").sources, kept.sources)
    assert made.weights.keys() == context.weights.keys()
    assert row.tokens[-1] <= 66
    distinct = len(np.unique(kept.sources[0]))
    assert (distinct < 64) == (method in ("tome", "cts", "algm", "nvit+tome"))


def test_recovery_trains_a_copy_with_the_seed_s_batches(context, tmp_path):
    tuned, samples = with_recovery(context, 4), StreetScenes("train", 8)
    run, found = point(context, "tome", tmp_path)
    before = {name: tensor.copy() for name, tensor in context.weights.items()}
    rows = [
        measure_run(tuned, samples, Run(run.condition, seed), found, tmp_path / f"{number}.pt", CPU, "").row
        for number, seed in enumerate((0, 0, 1))
    ]
    assert [row.status for row in rows] == ["complete"] * 3, rows[0].error
    assert rows[0].clean_miou == rows[1].clean_miou
    assert rows[0].corrupted_by_variant != rows[2].corrupted_by_variant
    assert all(np.array_equal(context.weights[name], tensor) for name, tensor in before.items())
    assert rows[0].seconds_recover > 0


def test_adaptive_merging_is_matched_again_after_recovery(context, tmp_path):
    run, found = point(context, "algm", tmp_path)
    tuned = with_recovery(context, 6)
    row = measure_run(tuned, StreetScenes("train", 8), run, found, tmp_path / "state.pt", CPU, "").row
    assert row.status == "complete", row.error
    assert row.gflops == pytest.approx(found.target, rel=0.012)
    assert row.recipe_id != found.recipe.id


def test_an_unreachable_level_says_how_far_the_method_goes(context):
    condition = Condition(500.0, "cts")
    point = find(context, condition, CPU)
    row = failed_row(context, Run(condition, 0), point, unreachable(point))
    assert row.status == "failed"
    assert "the minimum is" in row.error
    assert "R = 0.75" in row.error


def test_a_recipe_that_cannot_be_built_is_a_failed_row(context, tmp_path):
    too_wide = OperatingPoint(dense(SHAPE).model_copy(update={"embed": 128}), 1.0, 1.0, "")
    row = measure_run(context, None, Run(Condition(2.0, "nvit"), 0), too_wide, tmp_path, CPU, "").row
    assert row.status == "failed"
    assert "embed" in row.error


def test_speeds_are_relative_to_dense(context, tmp_path):
    points = {}
    for method in ("dense", "algm", "nvit"):
        run, found = point(context, method, tmp_path)
        points[Condition(1.0, "dense") if method == "dense" else run.condition] = found
    timings = {timing.label: timing for timing in time_points(context, points, CPU)}
    assert timings["dense"].flops_saved == pytest.approx(1.0)
    assert timings["dense"].speed_gained == pytest.approx(1.0)
    full = gflops(SHAPE, dense(SHAPE))
    assert timings["NViT 1.25x"].flops_saved == pytest.approx(full / points[Condition(1.25, "nvit")].gflops)
    assert all(timing.speed_gained > 0 for timing in timings.values())


def test_a_batch_of_adaptive_merging_merges_what_its_images_do_on_average(context, tmp_path):
    _, found = point(context, "algm", tmp_path)
    recipe = batched(context, found, torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert isinstance(recipe.merge, Algm)
    assert not recipe.merge.adaptive
    assert built(context, OperatingPoint(recipe, 0.0, 0.0, "")) is not None


def test_scenes_are_a_clean_image_and_corrupted_ones(context):
    shown = scenes(context)
    assert [scene.title for scene in shown] == ["clean", "fog 3", "gaussian noise 3"]
    assert all(scene.image.shape == (64, 64, 3) and scene.label.shape == (64, 64) for scene in shown)


def test_columns_of_speed_parquet_keep_their_names():
    assert [field.name for field in fields(Timing)] == [
        "label", "flops_saved", "speed_gained", "images_per_second", "setting",
    ]  # fmt: skip
