# SPDX-License-Identifier: Apache-2.0
"""The latency table, with FLOPs in place of a clock: the sum of its parts is what a whole model counts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raycomp.compress.apply import compress
from raycomp.errors import UserError
from raycomp.evaluate.latency_error import error_in_words, stored_error
from raycomp.evaluate.latency_fit import _drawn, fitted, left_out
from raycomp.evaluate.latency_table import NO_FIT, LatencyTable, _evicted, _Parts, measure_latency
from raycomp.merging import Algm, ToMe, WindowsToMe
from raycomp.merging.tokens import Tokens
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense, tokens_removed
from tests.conftest import TINY
from tests.helpers.recipes import without
from tests.models.heads.shapes import NAMES, shape_of

CPU = torch.device("cpu")


def counted(run, x: torch.Tensor) -> float:
    """In place of a clock: the multiplications of matmuls and convolutions, by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        run(x)
    return float(counter.get_total_flops())


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return measure_latency(TINY, 2, CPU, torch.float32, merging=ToMe(ratios=(0.5,) * 3), time=counted)


def whole(recipe: Recipe) -> float:
    """The same counter over the whole model of a recipe."""
    model = compress(Segmenter(TINY, dense(TINY)).eval(), recipe, None)
    with torch.inference_mode():
        return counted(model, torch.randn(2, 3, *TINY.image))


def test_parts_add_up_to_the_whole_model(table):
    quarter = BlockWidths(heads=1, qk=4, v=4, mlp=32)
    recipes = [
        dense(TINY),
        Recipe(embed=16, blocks=(BlockWidths(heads=2, qk=4, v=7, mlp=64),) * 3),
        Recipe(embed=24, blocks=(BlockWidths(heads=2, qk=3, v=3, mlp=50), *dense(TINY).blocks[1:])),
        Recipe(embed=32, blocks=dense(TINY).blocks, merge=ToMe(ratios=(0.25, 0.0, 0.5))),
        Recipe(embed=16, blocks=(quarter,) * 3, merge=ToMe(ratios=(0.0, 0.3, 0.2))),
        without(Recipe(embed=16, blocks=(quarter,) * 3, merge=ToMe(ratios=(0.2, 0.3, 0.2))), (0,), (1, 2)),
        without(dense(TINY), (0, 1, 2), (0, 1, 2)),
    ]
    for recipe in recipes:
        # of an odd number of tokens one finds no partner, which the parabola over tokens rounds away
        assert table.latency_ms(recipe) == pytest.approx(whole(recipe), rel=1e-5)


def test_windows_and_the_pairs_after_them_add_up_too():
    method = WindowsToMe(windows=1.0, ratios=(0.5,) * 3)
    table = measure_latency(TINY, 2, CPU, torch.float32, merging=method, time=counted)
    assert table.parts["windows"].shape == (4, 2, 1)
    recipes = [dense(TINY).merging(WindowsToMe(windows=1.0, ratios=ratios)) for ratios in [(0, 0, 0), (0.5, 0, 0.25)]]
    for recipe in (*recipes, dense(TINY).merging(ToMe(ratios=(0.25, 0.0, 0.5), metric="near_keys"))):
        assert table.latency_ms(recipe) == pytest.approx(whole(recipe), rel=1e-5)


def test_the_time_of_windows_is_counted_once():
    """With a clock that charges only the merging of windows, by their number."""
    method = WindowsToMe(windows=1.0, ratios=(0.5,) * 3)

    def clock(run, x: torch.Tensor) -> float:
        out = run(x)
        merged = isinstance(out, tuple) and isinstance(out[1], Tokens) and out[1].size.max() == 4
        return (50 - out[0].shape[1]) / 3 if merged else 0.0

    table = measure_latency(TINY, 2, CPU, torch.float32, merging=method, time=clock)
    for windows in (0.25, 0.5, 1.0):
        recipe = dense(TINY).merging(WindowsToMe(windows=windows, ratios=(0.0, 0.0, 0.0)))
        assert table.latency_ms(recipe) == pytest.approx(12 * windows)


def test_without_merging_it_is_smaller_and_says_so(table):
    plain = measure_latency(TINY, 2, CPU, torch.float32, time=counted)
    assert sum(part.size for part in plain.parts.values()) < sum(part.size for part in table.parts.values()) / 3
    assert plain.latency_ms(dense(TINY)) == pytest.approx(whole(dense(TINY)))
    merging = dense(TINY).model_copy(update={"merge": ToMe(ratios=(0.1, 0.1, 0.1))})
    with pytest.raises(ValueError, match="no latencies for merging by tome"):
        plain.latency_ms(merging)
    with pytest.raises(ValueError, match="no latencies for merging by algm"):
        table.latency_ms(dense(TINY).model_copy(update={"merge": Algm(blocks=(1, 2), windows=0.1, pairs=0.1)}))


def test_it_is_the_same_after_a_round_trip(table, tmp_path):
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again.latency_ms(dense(TINY)) == table.latency_ms(dense(TINY))
    assert again.setting == table.setting
    assert again.setting.startswith("cpu float32 batch 2 ")
    assert again.device == "cpu"
    older = json.loads((tmp_path / "table.json").read_text()) | {"setting": "cuda float32 batch 2 tokens 50"}
    del older["device"]
    (tmp_path / "table.json").write_text(json.dumps(older))
    assert LatencyTable.load(tmp_path / "table.json").device == "cuda"
    for text in ("{", "[]"):
        (tmp_path / "table.json").write_text(text)
        with pytest.raises(UserError, match="not a latency table"):
            LatencyTable.load(tmp_path / "table.json")


def test_a_card_has_its_whole_cache_evicted(monkeypatch):
    h100 = SimpleNamespace(L2_cache_size=50 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: h100)
    assert 4 * _evicted(torch.device("cuda")) == 4 * 50 * 2**20  # bytes
    assert 4 * _evicted(CPU) == 4 * 2**20


def test_whole_models_are_fitted_at_widths_that_spaces_offer(rng):
    shape = TINY.model_copy(update={"width": 96, "heads": 8})  # of heads of 12 channels
    drawn = [_drawn(shape, rng, merging=None) for _ in range(50)]
    blocks = [block for recipe in drawn for block in recipe.blocks]
    assert {recipe.embed for recipe in drawn} <= {24, 32, 40, 48, 56, 64, 72, 80, 88, 96}
    assert {block.heads for block in blocks} == {2, 3, 4, 5, 6, 7, 8}
    assert {block.qk for block in blocks} | {block.v for block in blocks} <= set(range(1, 13))
    assert {block.mlp % 8 for block in blocks} == {0}
    assert min(block.mlp for block in blocks) < 200 < max(block.mlp for block in blocks) <= 384


def test_real_times_are_positive():
    small = TINY.model_copy(update={"image": (16, 16)})
    table = measure_latency(small, 1, CPU, torch.float32)
    assert all((part > 0).all() for part in table.parts.values())
    assert np.isfinite(table.latency_ms(dense(small)))


def test_a_model_with_one_head_has_a_table_too():
    single = TINY.model_copy(update={"heads": 1, "image": (16, 16)})
    table = measure_latency(single, 1, CPU, torch.float32, merging=ToMe(ratios=(0.5,) * 3), time=counted)
    model = Segmenter(single, dense(single)).eval()
    with torch.inference_mode():
        assert table.latency_ms(dense(single)) == pytest.approx(counted(model, torch.randn(1, 3, 16, 16)))


def test_what_whole_models_take_longer_is_learned(table):
    """With a clock by which whole models take a power of their parts, and merging something on top."""
    power, factor, merging = 0.9, 1.5, 2.0

    def clock(runs, device, rounds, warm_up):
        found = {}
        for i, run in runs.items():
            run()
            recipe = run.func.recipe
            merges = np.count_nonzero(tokens_removed(TINY, recipe.merge)[1])
            parts = table.latency_ms(recipe)
            found[i] = 1e-3 * factor * parts**power * np.exp(merging * merges / parts)
        return found

    better = fitted(table, 2, CPU, torch.float32, clock)
    assert better.fit == pytest.approx((power, factor, merging), rel=1e-6)
    assert better.errors == pytest.approx([0.0] * 13, abs=1e-6)
    recipe = Recipe(embed=24, blocks=dense(TINY).blocks, merge=ToMe(ratios=(0.25, 0.0, 0.5)))
    parts = table.latency_ms(recipe)
    assert better.latency_ms(recipe) == pytest.approx(factor * parts**power * np.exp(2 * merging / parts))


def test_the_error_of_a_model_is_that_of_a_fit_to_the_others():
    parts, merges = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.zeros(5)
    measured = parts * [1, 1, 1, 1, 1.5]
    errors = left_out(parts, merges, measured)
    assert errors[4] == pytest.approx(1 / 3)  # the others follow a line, from which it is half off
    slope, offset = np.polyfit(np.log(parts[1:]), np.log(measured[1:]), 1)
    assert errors[0] == pytest.approx(abs(np.exp(offset + slope * np.log(parts[0])) - 1))


def test_errors_are_kept_and_told(table, tmp_path):
    path = tmp_path / "latency.json"
    assert stored_error(tmp_path) == error_in_words(()) == ""
    replace(table, errors=(0.02, 0.031, 0.08)).save(path)
    again = LatencyTable.load(path)
    assert again.errors == (0.02, 0.031, 0.08)
    assert again.about == f"{again.setting}; 3.1% off in the median and 8.0% at most, on 3 models"
    assert stored_error(tmp_path) == "3.1% off in the median and 8.0% at most, on 3 models"


def test_a_fit_to_real_times_is_kept(tmp_path):
    small = TINY.model_copy(update={"image": (32, 32)})
    better = fitted(
        measure_latency(small, 2, CPU, torch.float32, merging=ToMe(ratios=(0.5,) * 3)), 2, CPU, torch.float32
    )
    assert np.isfinite(better.fit).all()
    assert better.latency_ms(dense(small)) > 0
    better.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").fit == better.fit
    old = json.loads((tmp_path / "table.json").read_text())
    del old["fit"], old["errors"]
    (tmp_path / "table.json").write_text(json.dumps(old))
    older = LatencyTable.load(tmp_path / "table.json")
    assert (older.fit, older.errors) == (NO_FIT, ())
    assert older.about == older.setting
    (tmp_path / "table.json").rename(tmp_path / "latency.json")
    assert stored_error(tmp_path) == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_head_runs_on_few_and_on_many_tokens(name):
    shape = shape_of(name)
    parts = _Parts(shape, 2, CPU, torch.float32, shape.image, ToMe.standard(shape, "small"))
    for tokens in (4, parts.tokens):
        run, x = parts.decoder(16, tokens)
        logits = run(x)
        assert isinstance(logits, torch.Tensor)
        assert logits.shape == (2, 5, *shape.image)
