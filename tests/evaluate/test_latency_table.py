"""The latency table: exact at its points, linear between them."""

import pytest
import torch

from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable, measure_latency
from raycomp.recipe import BlockWidths, Recipe, dense
from tests.conftest import TINY


def multiplications(run, x: torch.Tensor) -> float:
    """In place of a clock: the weights that the timed half of a block holds."""
    block = run.__self__
    if run.__name__ == "attend":
        return float(block.attn.qkv.weight.numel() + block.attn.proj.weight.numel())
    return float(block.mlp.fc1.weight.numel() + block.mlp.fc2.weight.numel()) + 0 * x.numel()


@pytest.fixture
def table() -> LatencyTable:
    return measure_latency(TINY, 2, torch.device("cpu"), torch.float32, time=multiplications)


def expected(recipe: Recipe) -> float:
    return sum(recipe.embed * (b.heads * (2 * b.qk + 2 * b.v) + 2 * b.mlp) for b in recipe.blocks)


def test_it_is_exact_on_and_between_points_of_a_multilinear_cost(table):
    recipes = [
        dense(TINY),
        Recipe(embed=16, blocks=(BlockWidths(heads=2, qk=4, v=6, mlp=64),) * 3),
        Recipe(embed=20, blocks=(BlockWidths(heads=3, qk=5, v=3, mlp=50), *dense(TINY).blocks[1:])),
    ]
    for recipe in recipes:
        assert table.latency_ms(recipe) == pytest.approx(expected(recipe), rel=1e-9)


def test_it_is_the_same_after_a_round_trip(table, tmp_path):
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again.latency_ms(dense(TINY)) == table.latency_ms(dense(TINY))
    assert again.setting == table.setting
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(UserError, match="not a latency table"):
        LatencyTable.load(tmp_path / "table.json")


def test_real_times_are_positive():
    small = TINY.model_copy(update={"image": (16, 16)})
    table = measure_latency(small, 1, torch.device("cpu"), torch.float32)
    assert (table.attention > 0).all()
    assert (table.mlp > 0).all()
