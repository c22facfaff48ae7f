# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal and their settings."""

from pathlib import Path

import pytest

from raycomp import config as configs
from raycomp.config import SweepConfig
from raycomp.rehearsal.smallest import jobs, smallest
from raycomp.search.schedule import stage_images

SPACES = Path(__file__).parents[2] / "search_spaces"
EVERY = ["ade20k_deit_base", "camvid_vit_tiny", "cityscapes_deit_base", "streetscenes_vit_micro"]


def space(name: str) -> SweepConfig:
    return configs.load(SPACES / f"{name}.yaml")


@pytest.mark.parametrize("name", EVERY)
def test_a_rehearsal_keeps_what_memory_depends_on(tmp_path, name):
    config = space(name)
    small = smallest(config, tmp_path, None, False)
    assert small.model.shape == config.model.shape
    assert small.space == config.space
    assert (small.train.batch, small.elastic.train.batch) == (config.train.batch, config.elastic.train.batch)
    assert (small.evaluation.batch, small.evaluation.dtype) == (config.evaluation.batch, config.evaluation.dtype)
    assert (small.nvit.batch, small.data.window) == (config.nvit.batch, config.data.window)
    assert small.search.budget == config.search.budget
    trainings = (small.train, small.elastic.train, small.policy.train, small.refine.train)
    assert [one.steps for one in trainings] == [2, 2, 2, 2]
    assert stage_images(small.evaluation.full) == 1 + 16


@pytest.mark.parametrize("name", EVERY)
def test_every_job_comes_after_those_it_needs(tmp_path, name):
    every = jobs(space(name), tmp_path)
    names = [job.name for job in every]
    expected = ["profile", "train", "policy", "elastic", "plan", "search", "refine", "export", "prune", "benchmark"]
    assert names == expected
    for job in every:
        assert set(job.after) <= set(names[: names.index(job.name)])


def test_a_search_needs_the_elastic_model_only_where_the_space_has_one(tmp_path):
    needs = {name: next(job.after for job in jobs(space(name), tmp_path) if job.name == "search") for name in EVERY}
    assert "elastic" in needs["camvid_vit_tiny"]
    assert "elastic" not in needs["ade20k_deit_base"]


def test_a_checkpoint_that_brings_its_shape_is_not_trained(tmp_path):
    config = space("ade20k_deit_base")
    model = config.model.model_copy(update={"shape": None, "checkpoint": "official/checkpoint.pth"})
    config = config.model_copy(update={"model": model})
    assert [job.name for job in jobs(config, tmp_path)][:3] == ["profile", "plan", "search"]
    assert smallest(config, tmp_path, None, False).model.checkpoint == "official/checkpoint.pth"


def test_random_weights_download_nothing_and_one_split_serves_for_both(tmp_path):
    small = smallest(space("ade20k_deit_base"), tmp_path, "validation", True)
    assert (small.model.backbone, small.policy.pretrained) == (None, False)
    assert (small.data.train_split, small.data.eval_split) == ("validation", "validation")
