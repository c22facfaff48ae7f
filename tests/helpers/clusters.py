# SPDX-License-Identifier: Apache-2.0
"""Clusters that are not there."""

import pytest
import ray


def have(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    """Let Ray tell of nodes with these resources, and of one that is gone."""
    there = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [*there, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}])
    total = {name: sum(node.get(name, 0.0) for node in nodes) for node in nodes for name in node}
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
