# SPDX-License-Identifier: Apache-2.0
"""Latency tables with chosen costs, for tests that need times but no clock."""

from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.work import KINDS
from raycomp.shape import ModelShape


def table_of(shape: ModelShape, method: str = "tome", **costs: float) -> LatencyTable:
    """Return a table with costs by kind of work, in milliseconds; kinds that are not given cost nothing."""
    assert costs.keys() <= KINDS.keys()
    every = {kind: costs.get(kind, 0.0) for kind in KINDS}
    return LatencyTable(shape, shape.image, method, {"fp32": every}, "cpu", "cpu")
