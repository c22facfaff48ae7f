# SPDX-License-Identifier: Apache-2.0
"""NViT's loop against a global sort written out, and its scores against what they must keep."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch

from raycomp.compress.nvit import nvit, surviving
from raycomp.compress.pruning import kept_units, prune
from raycomp.flops import gflops
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.settings.comparison import NvitConfig
from tests.conftest import TINY, seeded_model, seeded_saliency

CONFIG = NvitConfig(embed=8, heads=2, qk=2, v=2, mlp=8, rounds=3, criterion="taylor")


def cost(recipe: Recipe) -> float:
    return gflops(TINY, recipe)


def global_sort(scores, config: NvitConfig) -> list[tuple[float, int, str]]:
    """Every group that may go, by score: groups of a layer's units in ascending order, each summed."""
    groups = []
    for block, kind, size, least in [(-1, "embed", config.embed, config.embed)] + [
        (b, kind, getattr(config, "heads" if kind == "head" else kind), 1 if kind == "head" else None)
        for b in range(TINY.depth)
        for kind in ("head", "mlp")
    ]:
        units = sorted((scores["embed"] if block < 0 else scores[f"block.{block}.{kind}"]).tolist())
        stay = size if least is None else least
        for start in range(0, len(units) - size + 1, size):
            if len(units) - start - size >= stay:
                groups.append((sum(units[start : start + size]), block, kind))
    return sorted(groups)


def test_one_round_takes_the_least_groups_of_the_whole_model(model, saliency):
    """QK and V, whose groups depend on the heads that stay, are left out by groups as large as the head."""
    config = CONFIG.model_copy(update={"qk": 8, "v": 8, "rounds": 1, "tolerance": 0.01})
    target = 0.7 * cost(dense(TINY))
    found = nvit(model, saliency, lambda small: pytest.fail("one round scores once"), target, cost, config)
    expected = dense(TINY)
    for _, block, kind in global_sort(saliency, config):
        if cost(expected) <= target:
            break
        if kind == "embed":
            expected = expected.model_copy(update={"embed": expected.embed - config.embed})
            continue
        name, size = ("heads", config.heads) if kind == "head" else ("mlp", config.mlp)
        blocks = list(expected.blocks)
        blocks[block] = blocks[block].model_copy(update={name: getattr(blocks[block], name) - size})
        expected = expected.model_copy(update={"blocks": tuple(blocks)})
    assert found.model.recipe == expected
    assert found.reached


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_the_target_is_met_within_a_percent_and_only_smaller_models_are_scored(model, saliency, share):
    seen = []

    def rescore(small):
        seen.append(cost(small.recipe))
        return seeded_saliency(small)

    target = share * cost(dense(TINY))
    found = nvit(model, saliency, rescore, target, cost, CONFIG)
    assert found.reached
    assert 0.99 * target <= found.cost <= target
    assert found.cost == cost(found.model.recipe)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == CONFIG.rounds - 1
    assert len({block.mlp for block in found.model.recipe.blocks}) > 1  # widths are per block


@pytest.mark.parametrize(
    ("tolerance", "reached", "ends_at"), [(0.8, True, 0.81), (0.9, True, 0.97), (0.99, False, 1.06)]
)
def test_the_tolerance_bounds_how_far_below_the_target_a_removal_may_go(model, saliency, tolerance, reached, ends_at):
    """A group of half an MLP may be too large for the last removal."""
    config = CONFIG.model_copy(update={"mlp": 64, "rounds": 1, "tolerance": tolerance})
    target = 0.65 * cost(dense(TINY))
    found = nvit(model, saliency, seeded_saliency, target, cost, config)
    assert found.reached is reached
    assert found.cost / target == pytest.approx(ends_at, abs=0.005)
    assert found.cost >= tolerance * target


def test_a_unit_once_pruned_never_comes_back(model, saliency):
    built = []

    def rescore(small):
        built.append(small)
        return seeded_saliency(small)

    found = nvit(model, saliency, rescore, 0.4 * cost(dense(TINY)), cost, CONFIG)
    biases = [set(m.encoder.blocks[1].mlp.fc1.bias.tolist()) for m in (model, *built, found.model)]
    assert all(later <= earlier for earlier, later in pairwise(biases))
    assert len(biases[-1]) < len(biases[0])


def test_a_retrained_model_is_what_is_scored_and_pruned_further(model, saliency):
    """Training adds 1 to every bias after each round but the last; the result has what both trainings added."""
    rounds, scored = [], []

    def retrain(small, round_):
        rounds.append(round_)
        trained = deepcopy(small)
        for parameter in trained.parameters():
            parameter.data += 1
        return trained

    def rescore(small):
        scored.append(small)
        return seeded_saliency(small)

    found = nvit(model, saliency, rescore, 0.5 * cost(dense(TINY)), cost, CONFIG, retrain=retrain)
    assert rounds == [1, 2]
    dense_biases = torch.tensor(sorted(model.encoder.norm.bias.tolist()))
    for times, pruned in ((1, scored[0]), (2, scored[1]), (2, found.model)):
        for bias in pruned.encoder.norm.bias:
            assert (dense_biases + times - bias).abs().min() < 1e-5


def test_momentum_keeps_a_share_of_the_earlier_scores(model, saliency):
    """The second round is told to prune what the first kept best; with enough momentum it does not."""

    def upside_down(small):
        return {name: score.max() - score for name, score in seeded_saliency(small).items()}

    def recipe(momentum):
        config = CONFIG.model_copy(update={"momentum": momentum, "rounds": 2})
        return nvit(model, saliency, upside_down, 0.5 * cost(dense(TINY)), cost, config).model.recipe

    steady = CONFIG.model_copy(update={"rounds": 2})
    kept = nvit(
        model, saliency, lambda small: surviving(saliency, TINY, small.recipe), 0.5 * cost(dense(TINY)), cost, steady
    )
    assert recipe(0.0) != kept.model.recipe
    assert recipe(1 - 1e-12) == kept.model.recipe


def test_a_qk_unit_of_nvit_counts_once_for_all_heads(model):
    """Its score stands in every head; the group's score is not that many times as high."""
    config = CONFIG.model_copy(update={"criterion": "nvit", "rounds": 1, "tolerance": 0.01})
    scores = {name: torch.full_like(score, 10.0) for name, score in seeded_saliency(model, "nvit").items()}
    for block in range(TINY.depth):
        scores[f"block.{block}.qk"].fill_(1.0)  # a group of 2 scores 2; were the 4 heads added up, 8
        scores[f"block.{block}.mlp"].fill_(0.75)  # a group of 8 scores 6
    blocks = nvit(model, scores, seeded_saliency, 0.95 * cost(dense(TINY)), cost, config).model.recipe.blocks
    assert min(block.qk for block in blocks) < TINY.head_dim
    assert all(block.mlp == TINY.mlp for block in blocks)


def test_nvit_keeps_the_same_qk_and_v_units_in_every_head(model):
    recipe = Recipe(embed=32, blocks=(BlockWidths(heads=4, qk=3, v=5, mlp=128),) * 3)
    kept = kept_units(TINY, recipe, seeded_saliency(model, "nvit"))
    q = kept["block.0.qkv"][: 4 * 3].view(4, 3) - torch.arange(4)[:, None] * TINY.head_dim
    assert (q == q[0]).all()
    assert (kept["block.0.v"].view(4, 5) % TINY.head_dim == kept["block.0.v"][:5]).all()


def test_surviving_scores_are_at_their_places_in_the_pruned_model(saliency):
    recipe = Recipe(embed=24, blocks=(BlockWidths(heads=3, qk=5, v=4, mlp=40),) * 3)
    left, kept = surviving(saliency, TINY, recipe), kept_units(TINY, recipe, saliency)
    assert torch.equal(left["embed"], saliency["embed"][kept["embed"]])
    assert torch.equal(left["block.2.mlp"], saliency["block.2.mlp"][kept["block.2.mlp"]])
    heads = saliency["block.1.head"].topk(3).indices.sort().values
    assert torch.equal(left["block.1.head"], saliency["block.1.head"][heads])
    for row, head in enumerate(heads.tolist()):
        inside = saliency["block.1.qk"][head].topk(5).indices.sort().values
        assert torch.equal(left["block.1.qk"][row], saliency["block.1.qk"][head, inside])


def test_saliency_of_a_pruned_model_is_that_of_the_masked_gradients(model, saliency):
    """Scores of a sliced model are computed over its own rows: heads, QK and V of unequal widths."""
    block = BlockWidths(heads=2, qk=3, v=6, mlp=16)
    small = prune(model, Recipe(embed=16, blocks=(block,) * 3), saliency)
    scores = seeded_saliency(small)
    assert scores["block.0.qk"].shape == (2, 3)
    assert scores["block.0.v"].shape == (2, 6)
    attention = small.encoder.blocks[0].attn
    labels = torch.randint(0, 5, (2, *TINY.image), generator=torch.Generator().manual_seed(1))
    from tests.conftest import seeded_images

    torch.nn.functional.cross_entropy(small(seeded_images(TINY, seed=1)), labels).backward()
    rows = (attention.qkv.weight * attention.qkv.weight.grad).double().sum(1)
    rows += (attention.qkv.bias * attention.qkv.bias.grad).double()
    expected = (rows[4] + rows[6 + 4]).item() ** 2 / 2  # QK unit 1 of head 1: its row of q and of k
    assert scores["block.0.qk"][1, 1].item() == pytest.approx(expected, rel=1e-5)


def test_latency_term_prunes_first_what_saves_most_time(model, saliency):
    """With a table in which only MLP channels of block 2 take time and a heavy weight, they go first."""
    config = CONFIG.model_copy(update={"rounds": 1, "latency_weight": 1e6})
    found = nvit(
        model, saliency, seeded_saliency, 0.93 * cost(dense(TINY)), cost, config, lambda r: float(r.blocks[2].mlp)
    )
    whole = dense(TINY)
    recipe = found.model.recipe
    assert recipe.blocks[2].mlp < TINY.mlp
    assert recipe.model_copy(update={"blocks": whole.blocks}) == whole
    assert recipe.blocks[:2] == whole.blocks[:2]


def test_a_target_in_milliseconds_is_met(model, saliency):
    found = nvit(model, saliency, seeded_saliency, 200.0, lambda r: float(sum(b.mlp for b in r.blocks)), CONFIG)
    assert 198 <= found.cost <= 200


def test_a_target_that_cannot_be_reached_is_reported(model, saliency):
    found = nvit(model, saliency, seeded_saliency, 1e-6, cost, CONFIG)
    assert not found.reached
    assert found.cost > 1e-6


def test_a_dense_target_prunes_nothing(model, saliency):
    found = nvit(seeded_model(TINY), saliency, seeded_saliency, cost(dense(TINY)), cost, CONFIG)
    assert found.model.recipe == dense(TINY)
