# SPDX-License-Identifier: Apache-2.0
"""Compare ways to merge at equal widths and equal GFLOPs: the merge methods, and scores for the pairs of ToMe.

    python benchmarks/merge_scores.py [--split test] [--rows methods]      # 5 minutes of a quiet core

Cuts the embedded default's elastic model to two sets of widths for each share of the dense GFLOPs: those of the uniform
prune+ToMe baseline, and the narrowest that it was trained for. Each method then merges down to the share. The scores
replace only how ToMe chooses pairs: the same number of tokens merges in each block. `windows_tome` is also measured
with its windows in the second and third block. Measures the images of the search stage, or as many of another split,
and prints a Markdown table of clean / corrupted mIoU in %.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Self

import torch
import torch.nn.functional as F
import typer
from pydantic import PrivateAttr
from torch import Tensor

from raycomp.commands.inputs import numbers
from raycomp.compress.apply import compress
from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.robustness import summary
from raycomp.flops import gflops
from raycomp.match_cost import match_cost
from raycomp.memory import keep_freed_memory
from raycomp.merging import Algm, MergeMethod, ToMe, WindowsToMe
from raycomp.merging.algm import algm_blocks
from raycomp.merging.base import merged_pairs
from raycomp.merging.tokens import Tokens, merge_tokens, pair_positions
from raycomp.recipe import Recipe, dense
from raycomp.search.baselines import pruned
from raycomp.search.trial import measured_in
from raycomp.shape import Grid
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Compared:
    """The tokens of a block that may merge in pairs."""

    unit: Tensor
    """(B, N, C), mean keys of length 1."""
    size: Tensor
    """(B, N), patches in each token."""
    x: Tensor
    """(B, N, E), the tokens."""
    prefix: int
    """Special tokens in front."""

    def cosines(self) -> Tensor:
        """Return those of each source (even) and destination (odd), -inf for special tokens: (B, N/2, N/2)."""
        scores = self.unit[:, ::2] @ self.unit[:, 1::2].transpose(1, 2)
        scores[:, : (self.prefix + 1) // 2] = -torch.inf
        scores[:, :, : self.prefix // 2] = -torch.inf
        return scores

    def mean_similarity(self) -> Tensor:
        """Return the mean cosine of each token with all patches (B, N)."""
        patches = self.unit[:, self.prefix :]
        return (self.unit @ patches.sum(1)[:, :, None])[..., 0] / patches.shape[1]

    def relative_norm(self) -> Tensor:
        """Return the norm of each token, relative to the mean of all patches (B, N)."""
        norms = self.x.norm(dim=-1)
        return norms / norms[:, self.prefix :].mean(1, keepdim=True)

    def positions(self, best: Tensor, partner: Tensor, r: int) -> Tensor:
        """Return where each token is after the r sources of highest `best` merge; see `pair_positions`."""
        return pair_positions(best, partner, r, self.unit.shape[1], self.prefix)


Pairing = Callable[[Compared, int], Tensor]
"""Chooses r pairs: the position of each token after merging (B, N)."""


def main(
    split: Annotated[str | None, typer.Option(help="Split of the data; by default that of the search.")] = None,
    shares: Annotated[str, typer.Option(help="Shares of the dense GFLOPs, in %.")] = "40,27,22,18,12",
    rows: Annotated[str, typer.Option(help="Rows to measure: methods, scores or both.")] = "both",
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    context = prepare_context(load(space).changed("data", eval_split=split), print)
    cells = cells_of(context, [percent / 100 for percent in numbers("--shares", shares, 1, 100)])
    print("\n| | " + " | ".join(cell.title for cell in cells) + " |")
    print("|---|" + "---:|" * len(cells))
    strengths = methods(context)
    for name, build in ({} if rows == "scores" else strengths).items():
        show(name, [cell.merged(build) for cell in cells])
    for name, pairing in ({} if rows == "methods" else PAIRINGS).items():
        for method in ("ToMe", "local+ToMe, mean keys"):
            show(f"{method.partition(',')[0]}, {name}", [cell.merged(strengths[method], pairing) for cell in cells])


def show(name: str, measured: list[str]) -> None:
    """Print a row of the table."""
    print(f"| {name} | " + " | ".join(measured) + " |", flush=True)


@dataclass(frozen=True)
class Cell:
    """Widths, and the GFLOPs to merge down to."""

    context: SweepContext
    widths: Recipe
    target: float
    title: str

    def merged(self, build: Callable[[float], MergeMethod], pairing: "Pairing | None" = None) -> str:
        """Merge down to the target by a method of the given strength, and return the accuracy; empty if it cannot."""
        context = self.context
        cost = partial(gflops, context.shape, image=context.window)
        recipe = match_cost(lambda strength: self.widths.merging(build(strength)), cost, self.target).below
        if recipe is None:
            return ""
        device = default_device()
        model = compress(context.placed(context.elastic_model, device), recipe, None)
        if pairing is not None:
            model.encoder.merger = Paired.of(recipe, pairing)
        result = measured_in(context, model, "search", device)
        return f"{100 * result.clean_miou:.1f} / {100 * summary(result.corrupted, result.clean_miou).mpc:.1f}"


def cells_of(context: SweepContext, shares: list[float]) -> list[Cell]:
    """Return the widths of the uniform baseline at each share, and the narrowest; merging has to save the rest."""
    shape, image = context.shape, context.window
    space = Space.of(context.config, shape)
    narrowest, full = space.recipe(space.smallest).merging(None), gflops(shape, dense(shape), image)
    cells: list[Cell] = []
    for share in shares:
        half_way = match_cost(
            lambda strength: pruned(shape, strength, narrowest), partial(gflops, shape, image=image), full * share**0.5
        ).below
        kinds = {"narrowest": narrowest}
        if half_way not in (None, narrowest):
            kinds = {"uniform": half_way} | kinds
        cells += [
            Cell(context, widths, full * share, f"{share:.0%}, {kind}")
            for kind, widths in kinds.items()
            if widths is not None and gflops(shape, widths, image) > full * share
        ]
    return cells


def methods(context: SweepContext) -> dict[str, Callable[[float], MergeMethod]]:
    """Return the methods by strength."""
    shape, image = context.shape, context.window
    plain = ToMe.standard(shape, "")
    tome, near = (one.schedules(shape, image) for one in (plain, plain.model_copy(update={"metric": "near_keys"})))
    algm = Algm(blocks=algm_blocks(shape.depth), windows=1.0, pairs=0.5)
    found: dict[str, Callable[[float], MergeMethod]] = {
        "ToMe": tome["uniform"],
        "ToMe, near keys": near["uniform"],
        "ToMe, early": tome["early"],
        "ToMe, early, near keys": near["early"],
    }
    found["ALGM, fixed counts"] = lambda strength: algm.at(strength, shape, image)
    windows = WindowsToMe(windows=1.0, ratios=plain.ratios, metric="mean_keys")
    found["local+ToMe, mean keys"] = partial(_at, windows, context)
    for block in (1, 2, 3):
        ratios = (0.0,) * (block - 1) + (0.5,) * (shape.depth - block + 1)
        combined = WindowsToMe(block=block, windows=1.0, ratios=ratios)
        name = "local+ToMe" if block == 1 else f"local+ToMe, windows in block {block}"
        found[name] = partial(_at, combined, context)
    return found


def _at(method: MergeMethod, context: SweepContext, strength: float) -> MergeMethod:
    return method.at(strength, context.shape, context.window)


class Paired(WindowsToMe):
    """Merges the windows and counts of a recipe, but chooses its pairs otherwise."""

    _pairing: Pairing = PrivateAttr()

    @classmethod
    def of(cls, recipe: Recipe, pairing: Pairing) -> Self:
        """Return the merging of a recipe by ToMe, with or without windows."""
        merge = recipe.merge
        assert isinstance(merge, ToMe | WindowsToMe)
        made = cls(windows=merge.windows if isinstance(merge, WindowsToMe) else 0.0, ratios=merge.ratios)
        made._pairing = pairing
        return made

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        """See `MergeMethod.merge`."""
        metric = keys.mean(1)
        if block == self.block - 1 and self.windows:
            x, metric, tokens = self.local(x, metric, tokens, grid, prefix)
        r = merged_pairs(self.ratios[block], x.shape[1] - prefix)
        if r == 0:
            return x, tokens
        size = torch.ones(x.shape[:2], device=x.device) if tokens is None else tokens.size
        index = self._pairing(Compared(F.normalize(metric, dim=-1), size, x, prefix), r)
        return merge_tokens(x, tokens, index, x.shape[1] - r, prefix)


def penalised(penalty: Callable[[Compared], Tensor]) -> Pairing:
    """Subtract a penalty (B, N) of the source from its best cosine."""

    def pairs(tokens: Compared, r: int) -> Tensor:
        best, partner = tokens.cosines().max(-1)
        return tokens.positions(best - penalty(tokens)[:, ::2], partner, r)

    return pairs


def penalised_pairs(penalty: Callable[[Compared], Tensor]) -> Pairing:
    """Subtract the penalties (B, N) of source and destination from each cosine."""

    def pairs(tokens: Compared, r: int) -> Tensor:
        less = penalty(tokens)
        best, partner = (tokens.cosines() - less[:, ::2, None] - less[:, None, 1::2]).max(-1)
        return tokens.positions(best, partner, r)

    return pairs


def once(tokens: Compared, r: int) -> Tensor:
    """Let only the best source of a destination merge, unless there are not enough of them."""
    scores = tokens.cosines()
    best, partner = scores.max(-1)
    top = torch.full_like(scores[:, 0], -torch.inf).scatter_reduce(1, partner, best, "amax")
    return tokens.positions(best - 2.0 * (best < top.gather(1, partner)), partner, r)


def by_energy(margin: float) -> Pairing:
    """Protect the patches of least energy, as PiToMe does: only the 2r of highest energy are sources or destinations.

    Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", NeurIPS 2024.
    """

    def pairs(tokens: Compared, r: int) -> Tensor:
        unit, prefix = tokens.unit, tokens.prefix
        similar = unit @ unit[:, prefix:].transpose(1, 2)
        energy = torch.where(similar >= margin, similar, torch.expm1(similar - margin)).mean(-1)[:, prefix:]
        order = energy.argsort(dim=1, descending=True, stable=True) + prefix
        sources, others = order[:, : 2 * r : 2], order[:, 1 : 2 * r : 2]
        scores = unit.take_along_dim(sources[..., None], 1) @ unit.take_along_dim(others[..., None], 1).transpose(1, 2)
        stays = torch.ones(unit.shape[:2], dtype=torch.int64, device=unit.device).scatter_(1, sources, 0)
        place = stays.cumsum(1) - 1
        return place.scatter(1, sources, place.gather(1, others.gather(1, scores.argmax(-1))))

    return pairs


PAIRINGS: dict[str, Pairing] = {
    "energy of PiToMe": by_energy(0.9),
    "merge what resembles all": penalised(lambda tokens: -0.1 * tokens.mean_similarity()),
    "protect what resembles all": penalised(lambda tokens: 0.1 * tokens.mean_similarity()),
    "protect large norms": penalised(lambda tokens: 0.1 * tokens.relative_norm()),
    "protect large sources": penalised(lambda tokens: 0.03 * tokens.size.log()),
    "protect large pairs": penalised_pairs(lambda tokens: 0.03 * tokens.size.log()),
    "each destination once": once,
}


if __name__ == "__main__":
    typer.run(main)
