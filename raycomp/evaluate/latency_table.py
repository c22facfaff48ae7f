"""What a block of any widths takes on the device at hand: NViT's lookup table (REFERENCE 7).

Attention is measured over a coarse grid of (EMB, H, QK, V) and the MLP over one of (EMB, MLP); widths in
between are interpolated linearly.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator

from raycomp.errors import UserError
from raycomp.evaluate.speed import latency_ms
from raycomp.files import written
from raycomp.models.segmenter import Block
from raycomp.recipe import BlockWidths, Recipe
from raycomp.shape import ModelShape, Size

_POINTS = 4  # of each width: a quarter, a half, three quarters, all of it


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a batch through the attention half and the MLP half of a block."""

    axes: dict[str, list[int]]
    """Measured widths by name: embed, heads, qk, v, mlp; ascending."""
    attention: np.ndarray
    """(embed, heads, qk, v)."""
    mlp: np.ndarray
    """(embed, mlp)."""
    setting: str
    """Device, precision, batch and tokens of the measurement."""

    def latency_ms(self, recipe: Recipe) -> float:
        """All blocks of a recipe without merging, for the table's batch."""
        points = np.array([(recipe.embed, b.heads, b.qk, b.v) for b in recipe.blocks], float)
        feeds = np.array([(recipe.embed, b.mlp) for b in recipe.blocks], float)
        attention, mlp = self._interpolators
        return float(attention(points).sum() + mlp(feeds).sum())

    @cached_property
    def _interpolators(self) -> tuple[RegularGridInterpolator, RegularGridInterpolator]:
        grid = [np.array(self.axes[name], float) for name in ("embed", "heads", "qk", "v", "mlp")]
        outside = {"bounds_error": False, "fill_value": None}  # below the smallest width: extrapolated
        return (
            RegularGridInterpolator(grid[:4], self.attention, **outside),
            RegularGridInterpolator((grid[0], grid[4]), self.mlp, **outside),
        )

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all."""
        values = {"attention": self.attention.tolist(), "mlp": self.mlp.tolist()}
        with written(path) as temporary:
            temporary.write_text(json.dumps({"axes": self.axes, "setting": self.setting, **values}))

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read a table.

        Raises:
            UserError: for a file that is none.
        """
        try:
            held = json.loads(path.read_text())
            return cls(held["axes"], np.array(held["attention"]), np.array(held["mlp"]), held["setting"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a latency table ({type(error).__name__}); delete it") from None


def measure_latency(
    shape: ModelShape,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    image: Size | None = None,
    time: Callable[..., float] = latency_ms,
) -> LatencyTable:
    """Time a block of a dense shape at every point of the grid, with all tokens of an image of height x width."""
    most = {"embed": shape.width, "heads": shape.heads, "qk": shape.head_dim, "v": shape.head_dim, "mlp": shape.mlp}
    axes = {name: sorted({-(-full * i // _POINTS) for i in range(1, _POINTS + 1)}) for name, full in most.items()}
    rows, columns = shape.grid(image)
    tokens = shape.prefix + rows * columns

    def block(embed: int, heads: int, qk: int, v: int, mlp: int) -> tuple[Block, torch.Tensor]:
        made = Block(embed, BlockWidths(heads=heads, qk=qk, v=v, mlp=mlp), shape.head_dim**-0.5, shape.norm_eps)
        return made.to(device, dtype).eval(), torch.randn(batch, tokens, embed, device=device, dtype=dtype)

    with torch.inference_mode():
        attention = np.empty([len(axes[name]) for name in ("embed", "heads", "qk", "v")])
        for place in itertools.product(*map(range, attention.shape)):
            e, h, q, v = (axes[name][i] for name, i in zip(("embed", "heads", "qk", "v"), place, strict=True))
            made, x = block(e, h, q, v, 1)
            attention[place] = time(made.attend, x)
        mlp = np.empty((len(axes["embed"]), len(axes["mlp"])))
        for place in itertools.product(*map(range, mlp.shape)):
            made, x = block(axes["embed"][place[0]], 1, 1, 1, axes["mlp"][place[1]])
            mlp[place] = time(made.feed, x)
    setting = f"{device} {str(dtype).removeprefix('torch.')} batch {batch} tokens {tokens} torch {torch.__version__}"
    return LatencyTable(axes, attention, mlp, setting)
