# SPDX-License-Identifier: Apache-2.0
"""The paper's Fig. 2, 3 and 4, from benchmark rows and stored pictures."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from raycomp.benchmark.conditions import TITLES, Condition
from raycomp.benchmark.pictures import Pictures, Scene
from raycomp.data.samples import IGNORE
from raycomp.report.benchmark_tables import Result
from raycomp.report.drawing import finish, save
from raycomp.report.segmentation import legend, painted
from raycomp.storage import AnyPath

_COLORS = {
    "dense": "black", "algm": "#8d6a9f", "cts": "#e09f3e", "tome": "#d1495b",
    "nvit": "#3a7d44", "nvit+tome": "#1b6ca8", "found": "#00a6a6",
}  # fmt: skip
_MARKERS = {"dense": "*", "algm": "s", "cts": "D", "tome": "v", "nvit": "^", "nvit+tome": "o", "found": "P"}


def plot_accuracy(results: Sequence[Result], title: str, path: AnyPath) -> None:
    """Plot Fig. 2: mIoU of all methods against GFLOPs, clean above, noise below; bars are 95 % intervals."""
    figure, panels = plt.subplots(2, 1, figsize=(7.2, 8.2), sharex=True, layout="constrained")
    for axes, name in zip(panels, ("clean", "noise"), strict=True):
        for method, curve in _curves(results):
            values = [getattr(r, name) for r in curve]
            axes.errorbar(
                [r.gflops for r in curve],
                [100 * v.mean for v in values],
                yerr=[100 * v.half for v in values] if any(v.half for v in values) else None,
                **_style(method),
            )
        axes.set_ylabel(f"{name} mIoU (%)")
    panels[-1].set_xlabel("GFLOPs per image")
    finish(figure, panels, title, path)


def plot_rank(results: Sequence[Result], width: int, title: str, path: AnyPath) -> None:
    """Plot Fig. 4: effective rank (mean and standard deviation over images) and remaining tokens against GFLOPs."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for method, curve in _curves(results):
        cost = [r.gflops for r in curve]
        panels[0].errorbar(cost, [r.rank.mean for r in curve], yerr=[r.rank_std for r in curve], **_style(method))
        panels[1].plot(cost, [r.tokens for r in curve], **_style(method, line=True))
    panels[0].set_ylabel("effective rank / min(tokens, width)")
    panels[1].set_ylabel("tokens after the last block")
    panels[1].axhline(width, color="0.5", lw=0.8, ls=":")
    panels[1].annotate(
        f"embedding width {width}", (0.01, width), xycoords=("axes fraction", "data"), ha="left", va="bottom",
        fontsize=8, color="0.4",
    )  # fmt: skip
    for axes in panels:
        axes.set_xlabel("GFLOPs per image")
        axes.set_ylim(bottom=0)
    finish(figure, panels, title, path)


def plot_scenes(
    shown: Sequence[Scene],
    kept: Sequence[tuple[Condition, Pictures]],
    classes: Sequence[str],
    title: str,
    path: AnyPath,
) -> None:
    """Plot Fig. 3: image and ground truth; then, per method, prediction, merged tokens, and errors that dense avoids.

    `kept` are the pictures of each method, dense first; all errors of dense are shown.
    """
    rows, columns = 3 * len(shown), 1 + len(kept)
    height, width = shown[0].label.shape
    size = (1.6 * columns, 1.6 * rows * height / width + 0.9)
    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    dense = kept[0][1].predictions
    for index, scene in enumerate(shown):
        top = 3 * index
        _picture(panels[top, 0], scene.image, "image" if index == 0 else "")
        panels[top, 0].set_ylabel(scene.title)
        _picture(panels[top + 1, 0], painted(scene.label), "truth" if index == 0 else "")
        panels[top + 2, 0].axis("off")
        for column, (condition, pictures) in enumerate(kept, start=1):
            prediction = pictures.predictions[index]
            _picture(panels[top, column], painted(prediction), condition.label if index == 0 else "")
            _picture(panels[top + 1, column], merged(scene.image, pictures.sources[index]))
            errors = _errors(scene, prediction, None if column == 1 else dense[index])
            _picture(panels[top + 2, column], errors)
            if column == 1:
                for offset, name in enumerate(("prediction", "tokens", "errors")):
                    panels[top + offset, column].set_ylabel(name, fontsize=8)
    present = np.concatenate([scene.label.ravel() for scene in shown] + [one.predictions.ravel() for _, one in kept])
    legend(figure, present, classes, columns)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    save(figure, path)


def merged(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return the image (H, W, 3) uint8 with the patches of each token in their mean colour."""
    rows, columns = source.shape
    side = -(-image.shape[0] // rows), -(-image.shape[1] // columns)  # the last patches may be padded
    token = np.kron(source, np.ones(side, int))[: image.shape[0], : image.shape[1]]
    token = np.pad(token, ((0, image.shape[0] - token.shape[0]), (0, image.shape[1] - token.shape[1])), mode="edge")
    flat, pixels = token.reshape(-1), image.reshape(-1, 3).astype(float)
    counts = np.bincount(flat)
    means = np.stack([np.bincount(flat, pixels[:, c]) for c in range(3)], axis=1) / np.maximum(counts, 1)[:, None]
    shown = means[flat].reshape(image.shape).astype(np.uint8)
    border = np.zeros(token.shape, bool)
    border[:, 1:] |= token[:, 1:] != token[:, :-1]
    border[1:] |= token[1:] != token[:-1]
    shown[border] = (0.6 * shown[border]).astype(np.uint8)
    return shown


def _errors(scene: Scene, prediction: np.ndarray, dense: np.ndarray | None) -> np.ndarray:
    """Return a grey image with errors of the method alone in red and of dense alone in blue; without dense, all in red.

    Pixels are (H, W, 3) uint8; ignored ones are never errors.
    """
    grey = scene.image.mean(2, keepdims=True).repeat(3, 2) * 0.5 + 90
    labelled = scene.label != IGNORE
    wrong = labelled & (prediction != scene.label)
    dense_wrong = np.zeros_like(wrong) if dense is None else labelled & (dense != scene.label)
    grey[wrong & ~dense_wrong] = (214, 40, 57)
    grey[dense_wrong & ~wrong] = (29, 108, 200)
    return grey.astype(np.uint8)


def _picture(axes: Axes, image: np.ndarray, title: str = "") -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=9)


def _curves(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Return each method's results, cheapest first, ending with the dense model."""
    dense = [r for r in results if r.method == "dense"]
    compressed = [method for method in TITLES if method != "dense" and any(r.method == method for r in results)]
    curves = [(name, sorted((r for r in results if r.method == name), key=lambda r: r.gflops)) for name in compressed]
    curves = [(name, curve + dense) for name, curve in curves]
    return [*curves, ("dense", dense)] if dense else curves  # dense is drawn on top


def _style(method: str, line: bool = False) -> dict[str, object]:
    dense = method == "dense"
    style: dict[str, object] = {
        "label": TITLES[method], "color": _COLORS.get(method, "#5c8a8a"), "marker": _MARKERS.get(method, "X"),
        "ms": 13 if dense else 6, "lw": 0 if dense else 1.5, "zorder": 5 if dense else 2,
    }  # fmt: skip
    return style if line else style | {"capsize": 3}
