# SPDX-License-Identifier: Apache-2.0
"""Draw the figures of docs/results/camvid.md from the rows of `benchmarks/photographs.py`.

    python benchmarks/photographs_figures.py --results camvid --streets results/streetscenes_vit_micro

Writes camvid_front.png (accuracy against GFLOPs), camvid_rank.png (effective rank), camvid_depth.png (what
the found recipes keep along the depth, with those of street scenes) and camvid_classes.png (IoU lost by class).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import typer

from photographs import DENSE, FOUND, HALVES, at_share, rows_by_label
from raycomp import config as configs
from raycomp.flops import profile
from raycomp.recipe import dense as dense_recipe
from raycomp.report.drawing import finish
from raycomp.results.query import at_budgets
from raycomp.results.row import Row, present
from raycomp.results.store import Store
from raycomp.shape import ModelShape

_STYLES = {
    FOUND: ("#00a6a6", "P"),
    "uniform prune+local+ToMe": ("#1b6ca8", "o"),
    "uniform prune+ToMe": ("#5fa8d3", "o"),
    "uniform pruning": ("#3a7d44", "^"),
    "uniform local+ToMe": ("#7a4419", "v"),
    "uniform ToMe": ("#d1495b", "v"),
    "NViT": ("#88a070", "<"),
    "NViT+ToMe": ("#6c757d", "h"),
    "ALGM": ("#8d6a9f", "s"),
    "CTS": ("#e09f3e", "D"),
}
_SHARE = 0.27  # of the figure of classes


def main(
    results: Annotated[Path, typer.Option(help="Folder of the sweeps.")],
    streets: Annotated[Path | None, typer.Option(help="Finished sweep of the embedded default.")] = None,
    out: Annotated[Path, typer.Option()] = Path("docs/images"),
) -> None:
    rows = {half: rows_by_label(results, half) for half in HALVES}
    config = configs.load(results / f"{HALVES[0]}.yaml")
    shares, shape = config.search.baselines, config.model.shape
    assert shape is not None

    def at(method: str, share: float) -> list[Row]:
        found = [rows[half].get(at_share(method, share), []) for half in HALVES]
        return [row for half in found for row in half] if all(found) else []  # the halves are not equally hard

    curves = {method: [found for share in shares if (found := at(method, share))] for method in _STYLES}
    dense = [row for half in HALVES for row in rows[half][DENSE]]
    _curves(
        curves,
        dense,
        ("clean_miou", "corrupted_miou"),
        ("clean mIoU (%)", "corrupted mIoU (%)"),
        out / "camvid_front.png",
    )
    _curves(curves, dense, ("effective_rank",), ("effective rank / min(tokens, width) (%)",), out / "camvid_rank.png")
    _depth(
        {f"CamVid, {share:.0%}": (shape, at(FOUND, share)) for share in shares},
        streets,
        shares,
        out / "camvid_depth.png",
    )
    _classes({method: at(method, _SHARE) for method in _STYLES}, dense, out / "camvid_classes.png")


def _mean(rows: Sequence[Row], field: str) -> float:
    return float(np.mean([present(getattr(row, field)) for row in rows]))


def _curves(
    curves: dict[str, list[list[Row]]], dense: Sequence[Row], fields: Sequence[str], names: Sequence[str], path: Path
) -> None:
    """Draw figures of all methods against GFLOPs, one panel each."""
    figure, panels = plt.subplots(
        1, len(fields), figsize=(1 + 5.2 * len(fields), 5), layout="constrained", squeeze=False
    )
    for axes, field, name in zip(panels[0], fields, names, strict=True):
        axes.axhline(100 * _mean(dense, field), color="black", lw=0.9, ls=":", label="dense")
        for method, points in curves.items():
            if points:
                color, marker = _STYLES[method]
                width = 2.2 if method == FOUND else 1.1
                cost = [_mean(rows, "gflops") for rows in points]
                value = [100 * _mean(rows, field) for rows in points]
                axes.plot(
                    cost, value, color=color, marker=marker, lw=width, label=method, zorder=3 if method == FOUND else 2
                )
        axes.set_xlabel("GFLOPs per window")
        axes.set_ylabel(name)
    finish(figure, panels[0], "CamVid, Segmenter-Ti: photographs that no search saw", path)


def _depth(
    found: dict[str, tuple[ModelShape, list[Row]]], streets: Path | None, shares: Sequence[float], path: Path
) -> None:
    """Draw tokens, attention and MLP widths that the found recipes keep, by depth, photographs above street scenes."""
    groups = [("CamVid", found)]
    if streets is not None:
        store = Store(streets)
        config = store.config()
        assert config.model.shape is not None
        best = at_budgets(store.rows(), shares, config.search.budget)
        groups.append(
            ("street scenes", {f"{one.share:.0%}": (config.model.shape, [one.best]) for one in best if one.best})
        )
    figure, panels = plt.subplots(
        len(groups), 3, figsize=(12, 3.4 * len(groups) + 0.6), layout="constrained", squeeze=False
    )
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(shares)))
    for line, (name, recipes) in zip(panels, groups, strict=True):
        for color, (label, (shape, rows)) in zip(colors, recipes.items(), strict=True):
            kept = np.mean([_kept(shape, row) for row in rows], axis=0)
            for axes, values in zip(line, kept, strict=True):
                axes.plot(np.arange(shape.depth), 100 * values, color=color, marker=".", label=label.split(", ")[-1])
        for axes, what in zip(line, ("tokens into its MLP", "attention width", "MLP width"), strict=True):
            axes.set_ylabel(f"{name}: {what} (%)")
            axes.set_ylim(0, 104)
            axes.set_xlabel("block")
    finish(
        figure, panels.ravel().tolist(), "What the found recipes keep of each block, by share of the dense GFLOPs", path
    )


def _kept(shape: ModelShape, row: Row) -> np.ndarray:
    """Return the shares (3, depth) of tokens, of heads times their width, and of MLP channels that a recipe keeps."""
    recipe = row.recipe
    full = profile(shape, dense_recipe(shape)).tokens
    tokens = np.array(profile(shape, recipe).tokens) / np.array(full)
    attention = [block.heads * block.v / (shape.heads * shape.head_dim) for block in recipe.blocks]
    mlp = [block.mlp / shape.mlp for block in recipe.blocks]
    return np.array([tokens, attention, mlp])


def _classes(methods: dict[str, list[Row]], dense: Sequence[Row], path: Path) -> None:
    """Draw the IoU that each method loses by class at one share."""
    methods = {name: rows for name, rows in methods.items() if rows}
    classes = list(present(dense[0].classes))
    before = np.nanmean([row.class_iou for row in dense], axis=0)
    figure, axes = plt.subplots(figsize=(11, 4.8), layout="constrained")
    width = 0.8 / len(methods)
    for index, (name, rows) in enumerate(methods.items()):
        lost = 100 * (np.nanmean([row.class_iou for row in rows], axis=0) - before)
        axes.bar(np.arange(len(classes)) + index * width - 0.4, lost, width, color=_STYLES[name][0], label=name)
    axes.set_xticks(
        range(len(classes)), [f"{name}\n{100 * iou:.0f}" for name, iou in zip(classes, before, strict=True)]
    )
    axes.set_ylabel("IoU against dense (points)")
    axes.axhline(0, color="black", lw=0.8)
    finish(
        figure,
        [axes],
        f"CamVid at {_SHARE:.0%} of the GFLOPs: what each class loses; below its name, dense IoU (%)",
        path,
    )


if __name__ == "__main__":
    typer.run(main)
