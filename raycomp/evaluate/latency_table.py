# SPDX-License-Identifier: Apache-2.0
"""Predict a model's latency on a device from its widths and merging: NViT's lookup table (REFERENCE 7), with tokens.

The halves of a block, the merging between them, the embedding and the decoder are each measured over a coarse grid of
widths and at three token counts. Widths are interpolated linearly, which is exact for products of widths. Over tokens,
a parabola passes through the three counts, because attention costs a + b N + c N^2. Attention runs at the wider of qk
and v, so it is measured over that width and over the tilt (v - qk) / wider, in which its cost has one kink, at 0.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from raycomp.devices import device_name
from raycomp.errors import UserError
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.latency_error import error_in_words
from raycomp.files import written
from raycomp.merging import METHODS, MergeMethod
from raycomp.merging.tokens import Tokens
from raycomp.models.block import Block, BlockTraits
from raycomp.models.rotary import Rotation
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense, tokens_removed
from raycomp.settings.space_and_search import SpaceConfig
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape, Size
from raycomp.storage import AnyPath

_POINTS = 4  # per width: 1/4, 1/2, 3/4, 1
_EIGHTHS = (1, 4, 8)  # of all patches
_SHARES = (0.125, 0.5)  # of tokens merged
_TILTS = (-0.5, 0.0, 0.5)
_ROUNDS, _WARM_UP = 5, 1
_EVICTED = 2**20  # floats that pass through the CPU caches between two runs
_Run = tuple[Callable[[Tensor], object], Tensor]
Fit = tuple[float, float, float]
"""Power, factor and merging: t ms of parts and m merging blocks take factor * t^power * exp(merging * m / t) ms."""
NO_FIT: Fit = (1.0, 1.0, 0.0)
_AXES = {
    "embedding": ("embed",),
    "attention": ("embed", "heads", "wide", "tilt"),
    "weighted": ("embed", "heads", "wide", "tilt"),
    "windows": ("embed", "share"),
    "merging": ("embed", "qk", "share"),
    "mlp": ("embed", "mlp"),
    "decoder": ("embed",),
}
"""Parts of a model and the widths they are measured over; `weighted` is attention with token sizes, `windows` merges
2x2 windows of all patches, and `merging` merges pairs."""


def calibrated(fit: Fit, parts: float, merges: float) -> float:
    """Return the milliseconds of a complete model, given those of its parts and its number of merging blocks."""
    power, factor, merging = fit
    return float(factor * parts**power * np.exp(merging * merges / parts))


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds that the parts of a model take for a batch."""

    shape: ModelShape
    image: Size
    axes: dict[str, list[float]]
    """Measured widths and shares by name, in ascending order."""
    tokens: list[int]
    """Measured token counts, in ascending order; the last is all tokens."""
    parts: dict[str, np.ndarray]
    """For each part, an array over its axes, then tokens; the last has length 1 if the part always sees all tokens."""
    device: str
    """Device of the measurement: cpu, or the GPU's name; see `device_name`."""
    setting: str
    """Device, precision, batch and tokens of the measurement."""
    fit: Fit = NO_FIT
    """How complete models differ from the sum of their parts."""
    method: str = SpaceConfig().merge
    """Merge method, if merging was measured."""
    errors: tuple[float, ...] = ()
    """Relative errors for complete models, each predicted by a fit to the others."""

    @property
    def about(self) -> str:
        """The setting, and the error if it is known."""
        return "; ".join(filter(None, (self.setting, error_in_words(self.errors))))

    def latency_ms(self, recipe: Recipe) -> float:
        """Predict the time of one forward pass of the table's batch through a recipe's model.

        Raises:
            ValueError: if the recipe merges and the table has no latencies of its method.
        """
        merge = self._method.expressed(recipe.merge)
        if recipe.merge is not None and ("merging" not in self.parts or merge is None):
            raise ValueError(f"no latencies for merging by {recipe.merge.method}")
        embed, blocks = recipe.embed, recipe.blocks
        _, removed = tokens_removed(self.shape, recipe.merge, self.image)
        before = self.tokens[-1] - np.cumsum([0, *removed])
        special = np.array([self.shape.special(block) for block in range(self.shape.depth)])
        n, after = (count + special - self.shape.prefix for count in (before[:-1], before[1:]))
        merged = int(np.argmax(np.array([*removed, 1]) > 0)) + 1  # index of the first block with merged tokens
        total = self._sum("embedding", [(embed,)], n[:1]) + self._sum("decoder", [(embed,)], after[-1:])
        attending = [i for i, b in enumerate(blocks) if b.heads]  # a dropped half takes no time
        for part, found in {
            "attention": [i for i in attending if i < merged],
            "weighted": [i for i in attending if i >= merged],
        }.items():
            total += self._sum(part, [_attention_point(embed, blocks[i]) for i in found], n[found])
        patches = (n - special).tolist()
        first = np.array([0 if merge is None else merge.removed_before_pairs(i, p) for i, p in enumerate(patches)])
        local = np.flatnonzero(first).tolist()
        total += self._sum("windows", [(embed, first[i] / patches[i] / 1.5) for i in local], n[local])
        paired, pairs = n - first, removed - first
        steps = [i for i, r in enumerate(pairs) if r]
        shares = [(embed, blocks[i].qk, pairs[i] / (paired[i] - special[i])) for i in steps]
        total += self._sum("merging", shares, paired[steps])
        feeding = [i for i, b in enumerate(blocks) if b.mlp]
        total += self._sum("mlp", [(embed, blocks[i].mlp) for i in feeding], after[feeding])
        return calibrated(self.fit, total, int(np.count_nonzero(removed)))

    @cached_property
    def _method(self) -> MergeMethod:
        return METHODS[self.method].standard(self.shape, PolicyConfig().kind)

    def _sum(self, part: str, points: Sequence[tuple[float, ...]], tokens: np.ndarray) -> float:
        """Sum the time of a part over several points, each with its token count."""
        if not points:
            return 0.0
        known = self._coefficients[part]
        if unknown := [point for point in dict.fromkeys(points) if point not in known]:
            known.update(zip(unknown, self._interpolators[part](np.array(unknown, float)), strict=True))
        coefficients = np.array([known[point] for point in points])  # (points, powers)
        powers = (tokens[:, None] / self.tokens[-1]) ** np.arange(coefficients.shape[1])
        return float((coefficients * powers).sum(1).clip(min=0).sum())

    @cached_property
    def _coefficients(self) -> dict[str, dict[tuple[float, ...], np.ndarray]]:
        """Interpolated coefficients by part and point, as recipes of a search share most of them."""
        return {part: {} for part in self.parts}

    @cached_property
    def _interpolators(self) -> dict[str, RegularGridInterpolator]:
        """Interpolators over widths, for each part's polynomial coefficients in the share of tokens."""
        interpolators = {}
        for part, values in self.parts.items():
            counts = np.array(self.tokens[-values.shape[-1] :]) / self.tokens[-1]
            powers = np.vander(counts, increasing=True)  # (counts, powers)
            grid = [np.array(self.axes[name], float) for name in _AXES[part]]
            outside = {"bounds_error": False, "fill_value": None}  # extrapolate below the smallest width
            interpolators[part] = RegularGridInterpolator(grid, values @ np.linalg.inv(powers).T, **outside)
        return interpolators

    def save(self, path: AnyPath) -> None:
        """Write the table as JSON, atomically."""
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        stored["shape"] = self.shape.model_dump(mode="json")
        stored["parts"] = {name: values.tolist() for name, values in self.parts.items()}
        with written(path) as temporary:
            temporary.write_text(json.dumps(stored))

    @classmethod
    def load(cls, path: AnyPath) -> "LatencyTable":
        """Read a table.

        Raises:
            UserError: if the file is not a table.
        """
        try:
            stored = json.loads(path.read_text())
            parts = {name: np.array(stored["parts"][name]) for name in stored["parts"]}
            shape, image = ModelShape.model_validate(stored["shape"]), tuple(stored["image"])
            setting = str(stored["setting"])
            # Older tables lack these fields; the first word of their setting is cpu or cuda.
            device, fit = stored.get("device", setting.partition(" ")[0]), tuple(stored.get("fit", NO_FIT))
            method, errors = stored.get("method", cls.method), tuple(stored.get("errors", ()))
            return cls(shape, image, stored["axes"], stored["tokens"], parts, device, setting, fit, method, errors)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a latency table ({type(error).__name__}); delete it") from None


def _attention_point(embed: int, widths: BlockWidths) -> tuple[float, ...]:
    wide = max(widths.qk, widths.v)
    return embed, widths.heads, wide, (widths.v - widths.qk) / wide


def measure_latency(
    shape: ModelShape,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    image: Size | None = None,
    merging: MergeMethod | None = None,
    time: Callable[..., float] | None = None,
) -> LatencyTable:
    """Time the parts of a dense shape's models at every point of the grid.

    Args:
        image: height and width; default: the shape's image size.
        merging: settings of a method with a `uniform_step`, to also time fewer tokens and the merging itself, which
            takes four times as long.
        time: returns the milliseconds of a function of one tensor; default: the median, with other layers run between.
    """
    method = merging or METHODS[SpaceConfig().merge].standard(shape, PolicyConfig().kind)
    parts = _Parts(shape, batch, device, dtype, image or shape.image, method)
    time = time or parts.clock()
    full = {"embed": shape.width, "heads": shape.heads, "wide": shape.head_dim, "qk": shape.head_dim, "mlp": shape.mlp}
    axes: dict[str, list[float]] = {
        name: sorted({-(-width * i // _POINTS) for i in range(1, _POINTS + 1)}) if width > 1 else [1, 2]
        for name, width in full.items()
    }
    axes |= {"share": list(_SHARES), "tilt": list(_TILTS)}
    patches = parts.tokens - shape.prefix
    tokens = sorted({shape.prefix + max(2, -(-patches * i // 8)) for i in _EIGHTHS})
    measured: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for name, names in _AXES.items():
            if merging is None and name in ("weighted", "windows", "merging"):
                continue
            if name == "windows" and not method.merges_windows:
                continue
            all_tokens = merging is None or name in ("embedding", "attention", "windows")
            counts = tokens[-1:] if all_tokens else tokens
            grid: list[list[float]] = [*(axes[axis] for axis in names), [*counts]]
            times = [time(*getattr(parts, name)(*point)) for point in itertools.product(*grid)]
            measured[name] = np.array(times).reshape([len(values) for values in grid])
    precision, threads, version = str(dtype).removeprefix("torch."), torch.get_num_threads(), torch.__version__
    name = device_name(device)
    setting = f"{name} {precision} batch {batch} tokens {tokens[-1]} threads {threads} torch {version}"
    return LatencyTable(shape, parts.image, axes, tokens, measured, name, setting, method=method.method)


def _evicted(device: torch.device) -> int:
    """Return how many floats flush a device's caches: on a GPU, four times its L2."""
    if device.type != "cuda":
        return _EVICTED
    return 4 * torch.cuda.get_device_properties(device).L2_cache_size // torch.float32.itemsize


@dataclass(frozen=True)
class _Parts:
    """For each part of a model: a function to time and its input, at given widths and n tokens."""

    shape: ModelShape
    batch: int
    device: torch.device
    dtype: torch.dtype
    image: Size
    method: MergeMethod

    @property
    def tokens(self) -> int:
        rows, columns = self.shape.grid(self.image)
        return self.shape.prefix + rows * columns

    def clock(self) -> Callable[..., float]:
        """Return a function that times another in milliseconds, in turns with a dense block.

        Timed alone, a part finds its weights in the caches and runs up to twice as fast as in a model.
        """
        block = self._block(self.shape.width, dense(self.shape).blocks[0])
        merge, x = self.merging(self.shape.width, self.shape.head_dim, _SHARES[0], self.tokens)
        passed = torch.zeros(_evicted(self.device), device=self.device)

        def between() -> None:
            merge(block.feed(block.attend(x)[0]))
            passed.add_(1)

        def time(run: Callable[[Tensor], object], on: Tensor) -> float:
            runs = {"between": between, "run": lambda: run(on)}
            return 1e3 * median_seconds(runs, self.device, _ROUNDS, _WARM_UP)["run"]

        return time

    def embedding(self, embed: int, n: int) -> _Run:
        del n  # always all tokens
        height, width = (side * self.shape.patch for side in self.shape.grid(self.image))
        return partial(self._model(embed).encoder, depth=0), self._random(3, height, width)

    def attention(self, embed: int, heads: int, wide: int, tilt: float, n: int) -> _Run:
        block, rotation = self._attention(embed, heads, wide, tilt), self._rotation(torch.zeros(1, n, 2))
        return lambda x: block.attend(x, None, rotation), self._random(n, embed)

    def weighted(self, embed: int, heads: int, wide: int, tilt: float, n: int) -> _Run:
        block = self._attention(embed, heads, wide, tilt)
        size = self._record(n).size if self.method.proportional else None
        rotation = self._rotation(torch.zeros(self.batch, n, 2))  # merging gives each image its own places
        return lambda x: block.attend(x, None if size is None else size.log(), rotation), self._random(n, embed)

    def merging(self, embed: int, qk: int, share: float, n: int) -> _Run:
        merge = self.method.with_searched({"merge_0": share})
        grid, prefix = self.shape.grid(self.image), self.shape.prefix
        heads, record = self.shape.heads, self._record(n)
        projected = self._random(n, 3 * heads, qk)  # keys lie between queries and values, as in attention
        keys = projected[:, :, heads : 2 * heads].transpose(1, 2)
        return lambda x: merge.merge(0, x, keys, record, grid, prefix), self._random(n, embed)

    def windows(self, embed: int, share: float, n: int) -> _Run:
        merge = self.method.with_searched({"merge_windows_0": share})
        grid, prefix = self.shape.grid(self.image), self.shape.prefix
        keys = self._random(self.shape.heads, n, 1)  # not compared
        return lambda x: merge.merge(0, x, keys, None, grid, prefix), self._random(n, embed)

    def mlp(self, embed: int, mlp: int, n: int) -> _Run:
        return self._block(embed, BlockWidths(heads=1, qk=1, v=1, mlp=mlp)).feed, self._random(n, embed)

    def decoder(self, embed: int, n: int) -> _Run:
        special = self.shape.final_special
        n = max(n, special + 1)  # queries come on top of the tokens that were counted
        model, record = self._model(embed), self._record(n, special)
        grid, taps = self.shape.grid(self.image), len(self.shape.tapped)

        def run(x: Tensor) -> Tensor:
            return model.decoder.form.logits(model.scores([(x, record)] * taps, grid), self.image)

        return run, self._random(n, embed)

    def _attention(self, embed: int, heads: int, wide: int, tilt: float) -> Block:
        qk, v = (max(1, round(wide * min(1.0, 1.0 + sign * tilt))) for sign in (-1, 1))
        qk += qk % 2 if self.shape.position == "rotary" else 0
        return self._block(embed, BlockWidths(heads=heads, qk=qk, v=v, mlp=1))

    def _model(self, embed: int) -> Segmenter:
        narrow = BlockWidths(heads=1, qk=1, v=1, mlp=1)
        model = Segmenter(self.shape, Recipe(embed=embed, blocks=(narrow,) * self.shape.depth))
        return model.to(self.device, self.dtype).eval()

    def _block(self, embed: int, widths: BlockWidths) -> Block:
        block = Block(embed, widths, BlockTraits.of(self.shape))
        return block.to(self.device, self.dtype).eval()

    def _rotation(self, places: Tensor) -> Rotation | None:
        return Rotation(self.shape, places.to(self.device)) if self.shape.position == "rotary" else None

    def _random(self, *size: int) -> Tensor:
        return torch.randn(self.batch, *size, device=self.device, dtype=self.dtype)

    def _record(self, n: int, special: int | None = None) -> Tokens:
        """Return a record of n tokens, `special` of them not patches; the assignment of patches does not matter."""
        prefix, patches = self.shape.prefix if special is None else special, self.tokens - self.shape.prefix
        source = prefix + torch.arange(patches, device=self.device).expand(self.batch, -1) % (n - prefix)
        return Tokens(size=torch.full((self.batch, n), 2.0, device=self.device), source=source)
