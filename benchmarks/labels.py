"""Labels of pixels: upsampled class scores and their argmax, against one kernel that never writes the logits.

    python benchmarks/labels.py [--dtype bfloat16] [--batch 32]

Prints milliseconds of both, taking turns in one run, for a DeiT-B/16 at 512 px and 150 classes and for a ViT-micro,
on a CUDA device with Triton.
"""

from typing import Annotated

import torch
import typer
from torch import Tensor

from raycomp.evaluate.speed import median_seconds
from raycomp.kernels.labels import fused_labels
from raycomp.models.segmenter import upsampled
from raycomp.shape import Grid

ROUNDS, WARM_UP = 9, 2
CASES: tuple[tuple[str, int, Grid, int], ...] = (
    ("ViT-micro 128 px, 11 classes", 11, (16, 16), 8),
    ("DeiT-B/16 512 px, 150 classes", 150, (32, 32), 16),
)


def main(
    device: Annotated[str, typer.Option()] = "cuda",
    dtype: Annotated[str, typer.Option()] = "float32",
    batch: Annotated[int, typer.Option()] = 4,
) -> None:
    print(f"torch {torch.__version__}, {device}, {dtype}, batch {batch}, medians of {ROUNDS}")
    print(f"{'scores of':32}{'logits, ms':>12}{'fused, ms':>12}")
    for name, classes, grid, patch in CASES:
        times = measured(classes, grid, patch, batch, torch.device(device), getattr(torch, dtype))
        print(f"{name:32}{1e3 * times['logits']:12.3f}{1e3 * times['fused']:12.3f}", flush=True)


@torch.inference_mode()
def measured(
    classes: int, grid: Grid, patch: int, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Seconds of each way, of random scores with the classes last, as a model gives them."""
    torch.manual_seed(0)
    patches = torch.randn(batch, grid[0] * grid[1], classes, device=device, dtype=dtype)
    scores = patches.transpose(1, 2).unflatten(2, grid)
    size = (grid[0] * patch, grid[1] * patch)
    check(scores[:2], patch)
    runs = {
        "logits": lambda: upsampled(scores, patch, size).argmax(1),
        "fused": lambda: fused_labels(scores, patch, size),
    }
    return median_seconds(runs, device, ROUNDS, WARM_UP)


def check(scores: Tensor, patch: int) -> None:
    """Labels differ at most where two classes are as likely, within rounding."""
    size = (scores.shape[-2] * patch, scores.shape[-1] * patch)
    logits = upsampled(scores.float(), patch, size)
    chosen = logits.gather(1, fused_labels(scores, patch, size).long()[:, None])[:, 0]
    assert (logits.amax(1) - chosen).max() < 1e-5


if __name__ == "__main__":
    typer.run(main)
