"""NViT's loop against a global sort written out, and its scores against what they must keep."""

import pytest
import torch

from raycomp.compress.nvit import GONE, nvit, spread
from raycomp.compress.prune import kept_units, prune
from raycomp.flops import gflops
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.sections import NvitConfig
from tests.conftest import TINY, seeded_model, seeded_saliency

CONFIG = NvitConfig(embed=8, heads=2, qk=2, v=2, mlp=8, rounds=3)


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
    assert found.recipe == expected
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
    assert found.cost == cost(found.recipe)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == CONFIG.rounds - 1
    assert len({block.mlp for block in found.recipe.blocks}) > 1  # widths are per block


def test_the_scores_alone_say_what_stays(model, saliency):
    """A unit pruned in an early round never comes back, and the last scores rebuild the same model."""
    built = []

    def rescore(small):
        built.append(small)
        return seeded_saliency(small)

    found = nvit(model, saliency, rescore, 0.4 * cost(dense(TINY)), cost, CONFIG)
    kept = kept_units(TINY, found.recipe, found.scores)
    for name, index in kept.items():
        if name in found.scores and found.scores[name].ndim == 1:
            gone = found.scores[name] == GONE
            assert gone.sum() == len(gone) - len(index)
            assert not gone[index].any()
    final = prune(model, found.recipe, found.scores).encoder.blocks[1].mlp.fc1.bias
    earlier = [small.encoder.blocks[1].mlp.fc1.bias for small in built]
    for bias in earlier:
        assert set(final.tolist()) <= set(bias.tolist())


def test_spread_puts_scores_back_where_the_units_were(model, saliency):
    block = BlockWidths(heads=3, qk=5, v=4, mlp=40)
    recipe = Recipe(embed=24, blocks=(block,) * 3)
    found = seeded_saliency(prune(model, recipe, saliency))
    full = spread(found, TINY, recipe, saliency)
    kept = kept_units(TINY, recipe, saliency)
    assert torch.equal(full["embed"][kept["embed"]], found["embed"])
    assert torch.equal(full["block.2.mlp"][kept["block.2.mlp"]], found["block.2.mlp"])
    heads = saliency["block.1.head"].topk(3).indices.sort().values
    for row, head in enumerate(heads.tolist()):
        inside = saliency["block.1.qk"][head].topk(5).indices.sort().values
        assert torch.equal(full["block.1.qk"][head, inside], found["block.1.qk"][row])
    assert (full["block.1.qk"] >= 0).sum() == 15
    assert (full["block.1.head"] >= 0).sum() == 3


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
    assert found.recipe.blocks[2].mlp < TINY.mlp
    assert found.recipe.model_copy(update={"blocks": whole.blocks}) == whole
    assert found.recipe.blocks[:2] == whole.blocks[:2]


def test_a_target_in_milliseconds_is_met(model, saliency):
    found = nvit(model, saliency, seeded_saliency, 200.0, lambda r: float(sum(b.mlp for b in r.blocks)), CONFIG)
    assert 198 <= found.cost <= 200


def test_a_target_that_cannot_be_reached_is_reported(model, saliency):
    found = nvit(model, saliency, seeded_saliency, 1e-6, cost, CONFIG)
    assert not found.reached
    assert found.cost > 1e-6


def test_a_dense_target_prunes_nothing(model, saliency):
    found = nvit(seeded_model(TINY), saliency, seeded_saliency, cost(dense(TINY)), cost, CONFIG)
    assert found.recipe == dense(TINY)
