# SPDX-License-Identifier: Apache-2.0
"""Speeds are ratios against the dense model; what saves nothing is flagged."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from raycomp.deploy.speed import Speed, speeds
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.merging import ToMe
from raycomp.recipe import dense
from raycomp.report.tables import speed_table
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from tests.conftest import TINY, seeded_model
from tests.helpers.contexts import SHAPE
from tests.helpers.deploy import compressed
from tests.helpers.figures import series
from tests.helpers.trials import fake_row

CPU = torch.device("cpu")


def test_every_model_is_timed_beside_the_dense_one(model, saliency):
    made = compressed(model, saliency, "mean_keys")
    found = speeds({"made": made}, ["torch"], [1, 2], CPU, torch.float32, 2)
    assert [(s.model, s.batch) for s in found] == [("dense", 1), ("made", 1), ("dense", 2), ("made", 2)]
    assert found[1].saved == pytest.approx(gflops(TINY, dense(TINY)) / gflops(TINY, made.recipe))
    assert (found[0].saved, found[0].gained, found[0].ratio) == (1, 1, 1)
    assert found[3].gained == pytest.approx(found[2].latency_ms / found[3].latency_ms)
    assert found[3].images_per_second == pytest.approx(2000 / found[3].latency_ms)
    assert len(speed_table(found).rows) == 4


@pytest.mark.slow
def test_an_int8_recipe_is_timed_in_onnxruntime_alone(model, saliency):
    plain, made = compressed(model, saliency, "mean_keys"), compressed(model, saliency, "mean_keys")
    made.recipe = made.recipe.at("int8")
    found = speeds({"plain": plain, "made": made}, ["torch", "onnxruntime"], [1], CPU, torch.float32, 1)
    assert [(s.runtime, s.model, s.precision) for s in found] == [
        ("torch", "dense", "fp32"), ("torch", "plain", "fp32"),
        ("onnxruntime", "dense", "fp32"), ("onnxruntime", "plain", "fp32"), ("onnxruntime", "made", "int8"),
    ]  # fmt: skip
    assert found[-1].gflops == found[1].gflops
    with pytest.raises(UserError, match=r"^--runtime torch: made runs in onnxruntime alone$"):
        speeds({"made": made}, ["torch"], [1], CPU, torch.float32, 1)


@pytest.mark.slow
def test_onnxruntime_is_timed_in_float32(model, saliency):
    made = compressed(model, saliency, "none")
    found = speeds({"made": made}, ["onnxruntime"], [2], CPU, torch.float32, 2)
    assert [s.runtime for s in found] == ["onnxruntime"] * 2
    with pytest.raises(UserError, match="--dtype bfloat16: onnxruntime is timed in float32"):
        speeds({"made": made}, ["onnxruntime"], [2], CPU, torch.bfloat16, 2)


def test_onnxruntime_without_cuda_is_refused_before_anything_is_timed(model):
    with pytest.raises(UserError, match=r"--device cuda: .* install onnxruntime-gpu instead"):
        speeds({"made": model}, ["torch", "onnxruntime"], [1], torch.device("cuda"), torch.float32, 1)


def test_every_compiled_model_is_compiled_once_for_a_batch(model, saliency, monkeypatch):
    """Also more of them than torch keeps for one code object; traced only, as a compiler takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "cache_size_limit", 1)
    made, counters = compressed(model, saliency, "mean_keys"), torch._dynamo.utils.counters
    counters.clear()
    found = speeds({"made": made}, ["torch"], [1, 2], CPU, torch.float32, 2, compiled=True)
    assert [(s.model, s.batch) for s in found] == [("dense", 1), ("made", 1), ("dense", 2), ("made", 2)]
    assert counters["stats"]["unique_graphs"] == 4


def test_a_failing_compiler_is_one_line(model, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    with pytest.raises(UserError, match=r"^--compile: torch\.compile fails: no compiler$"):
        speeds({"made": model}, ["torch"], [1], CPU, torch.float32, 1, compiled=True)


def test_saving_flops_but_no_time_is_flagged():
    slow = Speed("a", "torch", 1, 1.0, 1.0, 1000.0, saved=2.0, gained=0.9)
    assert slow.in_vain
    assert not replace(slow, gained=1.1).in_vain
    assert not replace(slow, saved=1.0, gained=0.99).in_vain
    assert slow.ratio == pytest.approx(0.45)


def test_models_that_cannot_be_compared_are_refused(model, saliency):
    other = seeded_model(TINY.model_copy(update={"depth": 2}))
    with pytest.raises(UserError, match="different shapes"):
        speeds({"a": model, "b": other}, ["torch"], [1], CPU, torch.float32, 1)
    with pytest.raises(UserError, match="a merges adaptively"):
        speeds({"a": compressed(model, saliency, "adaptive")}, ["torch"], [1], CPU, torch.float32, 1)


def test_a_sweep_stands_for_the_models_of_its_front(context, figures, tmp_path):
    from raycomp.commands.export import _models
    from raycomp.report.plot import plot_speed

    store = Store(tmp_path / "some")
    store.open(context.config.model_copy(update={"name": "some"}))
    with pytest.raises(UserError, match="sweep some has no front yet"):
        _models("some", str(tmp_path), CPU)
    narrow = dense(SHAPE).model_copy(update={"embed": 48, "merge": ToMe(ratios=(0.2, 0.0, 0.1, 0.0))})
    store.write(fake_row(SHAPE, Proposal(1, "search", "proposed", "", narrow)))
    made = _models("some", str(tmp_path), CPU)
    assert list(made) == [narrow.id]
    assert made[narrow.id].recipe == narrow
    assert made[narrow.id].encoder.merger is not None
    found = speeds(made, ["torch"], [1, 2], CPU, torch.float32, 1)
    assert found[1].saved == pytest.approx(gflops(SHAPE, dense(SHAPE)) / gflops(SHAPE, narrow))
    plot_speed(found, "cpu", tmp_path / "speed.png")
    drawn = series(figures[0].axes[0])
    assert drawn["torch, batch 1"] == [
        pytest.approx((one.saved, one.gained), abs=1e-6) for one in found if one.batch == 1
    ]
    assert drawn.keys() == {"speed gained = FLOPs saved", "torch, batch 1", "torch, batch 2"}
