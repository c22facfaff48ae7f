# SPDX-License-Identifier: Apache-2.0
"""Rows without a model: accuracy as a smooth function of the recipe."""

from dataclasses import dataclass, replace

from raycomp.config import SweepConfig
from raycomp.flops import gflops, profile
from raycomp.recipe import Recipe, dense
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.settings.model_and_data import DataConfig, ModelConfig
from raycomp.shape import ModelShape
from tests.conftest import TINY
from tests.helpers.rows import row


@dataclass(frozen=True)
class TokenClock:
    """In place of a latency table: tokens cost time, widths do not."""

    shape: ModelShape
    int8: float = 1.0
    """Time in INT8, relative to float32."""

    def latency_ms(self, recipe: Recipe) -> float:
        return (5.0 + sum(profile(self.shape, recipe).tokens)) * (self.int8 if recipe.precision == "int8" else 1.0)


def fake_row(shape: ModelShape, proposal: Proposal, status: str = "complete", clock: TokenClock | None = None) -> Row:
    """A row in which early merging hurts least and every pruned width costs a little."""
    recipe, whole = proposal.recipe, dense(shape)
    loss = sum(r**2 * (1 + depth) for depth, r in enumerate(recipe.ratios)) / 4
    loss += sum(1 - block.mlp / shape.mlp for block in recipe.blocks) / 20 + (1 - recipe.embed / shape.width) / 4
    loss += 0.01 if recipe.precision == "int8" else 0.0
    cost, timed = gflops(shape, recipe), {}
    if clock is not None:
        predicted = clock.latency_ms(recipe)
        timed = {"predicted_ms": predicted, "predicted_share": predicted / clock.latency_ms(whole)}
    accuracy = {"clean_miou": max(0.0, 0.8 - loss), "corrupted_miou": max(0.0, 0.6 - 1.2 * loss)}
    blocks = recipe.blocks
    return row(
        sweep="fake",
        number=proposal.number,
        stage=proposal.stage,
        origin=proposal.origin,
        label=proposal.label,
        status=status,
        error="" if status == "complete" else "made to fail",
        recipe_id=recipe.id,
        recipe_json=recipe.canonical_json(),
        family=recipe.family(shape),
        precision=recipe.precision,
        gflops=cost,
        gflops_share=cost / gflops(shape, whole),
        embed=recipe.embed,
        heads=[block.heads for block in blocks],
        qk=[block.qk for block in blocks],
        v=[block.v for block in blocks],
        mlp=[block.mlp for block in blocks],
        ratios=list(recipe.ratios),
        **timed,
        **(accuracy if status == "complete" else {}),
    )


CONFIG = SweepConfig(name="tiny", model=ModelConfig(checkpoint="x"), data=DataConfig(dataset="streetscenes"))
ROW = fake_row(TINY, Proposal(0, "search", "reference", "dense", dense(TINY)))
ROWS = [
    replace(row, evalset="images", checkpoint="weights")
    for row in (
        replace(
            fake_row(TINY, Proposal(0, "search", "reference", "dense", dense(TINY))),
            class_iou=[0.5, float("nan"), 0.7, 0.8, 0.9],
        ),
        fake_row(TINY, Proposal(1, "search", "proposed", "", dense(TINY).model_copy(update={"embed": 24})), "failed"),
        fake_row(TINY, Proposal(2, "search", "proposed", "", dense(TINY).model_copy(update={"embed": 16}))),
    )
]
"""A dense model, a trial that failed, and one that did not."""
CLASSES = ("sky", "traffic light", "car", "road", "tree")
