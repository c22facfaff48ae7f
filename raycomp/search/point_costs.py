# SPDX-License-Identifier: Apache-2.0
"""GFLOPs, token counts and work of thousands of grid points at once, equal to those of single recipes.

A solver compares hundreds of neighbours of a recipe in every step. Building each of them would take a hundred times
longer.

Legend: C points, D dimensions of the space, L blocks.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

import numpy as np

from raycomp.decoders import decoder_cost
from raycomp.decoders.halves import NORM_COST, attention_cost, mlp_cost
from raycomp.decoders.operations import Input
from raycomp.evaluate.work import KINDS
from raycomp.space import Space

_Counted = Callable[..., np.ndarray]
_attention, _mlp = cast(_Counted, attention_cost), cast(_Counted, mlp_cost)


class PointCosts:
    """Counts the cost of grid points of a space. A point is its steps of compression in each dimension, 0 for none."""

    def __init__(self, space: Space) -> None:
        self._space, self._shape = space, space.shape
        dimensions = list(space.dimensions.values())
        self._columns = {dimension.name: column for column, dimension in enumerate(dimensions)}
        self._full = np.array([d.full for d in dimensions])
        self._step = np.array([d.step if d.full == d.low else -d.step for d in dimensions])
        self._dropped = np.array([d.low if d.drop else -1 for d in dimensions])
        """Grid value that stands for width 0."""
        rows, columns = space.shape.grid(space.image)
        self._patches = rows * columns
        self._merging = [name for name in space.merging.dimensions if name in self._columns]
        self._tokens_removed = lru_cache(2**16)(self._count_removed)

    def __call__(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count GFLOPs (C,) and tokens after each block (C, L), with special tokens, of points (C, D)."""
        values, embed, blocks = self._widths(steps)
        shape, space = self._shape, self._space
        removed, first, extra = self._removed(values, [widths["heads"] for widths in blocks])
        left = self._patches - removed[:, 0]
        total = left * embed * 3 * shape.patch**2 + extra
        if shape.pre_norm:
            total = total + NORM_COST * (left + shape.prefix) * embed
        tokens = []
        for block, widths in enumerate(blocks):
            n, merged, early = left + shape.special(block), removed[:, block + 1], first[:, block]
            total = total + _attention(n, embed, widths["heads"], widths["qk"], widths["v"], shape.qk_norm)
            compared = space.merging.metric_width(block, 1, embed, widths["heads"], widths["qk"])  # type: ignore[arg-type]
            paired = n - early
            total = total + (merged > early) * ((paired + 1) // 2 * (paired // 2) * compared)
            left, n = left - merged, n - merged
            total = total + _mlp(n, embed, widths["mlp"], shape.activation == "swiglu")
            tokens.append(n)
        total = total + NORM_COST * sum(tokens[tap - 1] for tap in shape.normed_taps) * embed
        return (total + self._decoders(embed, left)) / 1e9, np.stack(tokens, axis=1)

    def work(self, steps: np.ndarray) -> np.ndarray:
        """Count the work of points (C, D) by kind: (C, kinds), in the order of `KINDS`; equal to `evaluate.work`."""
        values, embed, blocks = self._widths(steps)
        shape, merging = self._shape, self._space.merging
        removed, first, extra = self._removed(values, [widths["heads"] for widths in blocks])
        zero, gate = np.zeros(len(values)), 2 if shape.activation == "swiglu" else 1
        left, weighted = self._patches - removed[:, 0], zero > 0
        done = dict.fromkeys(KINDS, zero) | {"model": zero + 1, "embedding": left * embed}
        done["policy"] = (extra > 0) * float(merging.needs_policy)
        for index, widths in enumerate(blocks):
            heads, qk, v, mlp = widths["heads"], widths["qk"], widths["v"], widths["mlp"]
            n, r, early = left + shape.special(index), removed[:, index + 1], first[:, index]
            attends, scores, channels = heads > 0, n * n * heads, 2 * qk + v
            compares = np.asarray(merging.metric_width(index, 1, embed, heads, qk)) > 0  # type: ignore[arg-type]
            pairs, rest = compares & (r > early), n - early
            left = left - r
            after = left + shape.special(index)
            more = {
                "halves": attends + (mlp > 0) * 1,
                "linear": n * embed * heads * (channels + v) + (1 + gate) * after * embed * mlp,
                "attention": scores * (qk + v),
                "softmax": scores,
                "weighted_softmax": weighted * scores,
                "weighted_tokens": weighted * attends * n,
                "norms": attends * n * embed + (mlp > 0) * after * embed,
                "heads": n * heads * channels,
                "hidden": gate * after * mlp,
                "merging": pairs * 1,
                "pairs": pairs * ((rest + 1) // 2 * (rest // 2)),
                "merged": pairs * rest * embed,
                "windows": (r > 0) * ((early > 0) | ~compares) * n * embed,
            }
            done |= {kind: done[kind] + count for kind, count in more.items()}
            weighted = weighted | ((r > 0) & merging.proportional)
        done["restored"] = (removed > 0).any(axis=1) * 1
        done["decoder"], done["features"] = self._decoders(embed, left), (left + shape.final_special) * embed
        return np.stack([np.broadcast_to(count, zero.shape) for count in done.values()], axis=1).astype(float)

    def _widths(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[dict[str, np.ndarray]]]:
        """Return grid values (C, D), embedding widths (C,), and the widths of each block (C,), 0 where dropped."""
        values = self._full + self._step * steps
        values = np.where(values == self._dropped, 0, values)
        shape = self._shape
        full = {"heads": shape.heads, "qk": shape.head_dim, "v": shape.head_dim, "mlp": shape.mlp}
        embed = self._column(values, "embed", shape.width)
        blocks = [
            {kind: self._column(values, f"{kind}_{block}", width) for kind, width in full.items()}
            for block in range(shape.depth)
        ]
        return values, embed, blocks

    def _column(self, values: np.ndarray, name: str, width: int) -> np.ndarray:
        column = self._columns.get(name)
        return np.full(len(values), width) if column is None else values[:, column]

    def _removed(self, values: np.ndarray, heads: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens removed before the first block and in each (C, 1 + L), and the method's own cost (C,).

        Between them: tokens removed in each block before it compares pairs (C, L).
        """
        ratios = values[:, [self._columns[name] for name in self._merging]].copy()
        if self._space.merging.compares_keys:
            for column, name in enumerate(self._merging):
                block = name.partition("_")[2]
                if block.isdigit():
                    ratios[heads[int(block)] == 0, column] = 0
        distinct, of_point = np.unique(ratios, axis=0, return_inverse=True)
        counts = [self._tokens_removed(tuple(one)) for one in distinct.tolist()]
        table = np.array(counts)[of_point.ravel()]
        depth = self._shape.depth
        return table[:, : 1 + depth], table[:, 1 + depth : -1], table[:, -1]

    def _count_removed(self, ratios: tuple[int, ...]) -> tuple[int, ...]:
        """Count tokens removed before the first block and in each, in each before pairs are compared, and last the
        multiply-adds of the method's networks."""
        space, step = self._space, self._space.config.merge_step
        merge = space.merging.with_searched({n: r * step for n, r in zip(self._merging, ratios, strict=True)})
        if merge.empty:
            return (0,) * (2 + 2 * self._shape.depth)
        before, removed = merge.tokens_removed(self._shape, space.image)
        left = self._patches - before - np.cumsum([0, *removed[:-1]])
        first = (merge.removed_before_pairs(block, patches) for block, patches in enumerate(left.tolist()))
        return before, *removed, *first, merge.extra_cost(self._shape.patch, space.image)

    def _decoders(self, embed: np.ndarray, left: np.ndarray) -> np.ndarray:
        distinct, of_point = np.unique(np.stack([embed, left], axis=1), axis=0, return_inverse=True)
        costs = [decoder_cost(Input(self._shape, e, self._space.image, n)) for e, n in distinct.tolist()]
        return np.array(costs)[of_point.ravel()]
