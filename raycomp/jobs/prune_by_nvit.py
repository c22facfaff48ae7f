# SPDX-License-Identifier: Apache-2.0
"""Prune the dense model with NViT to a share of its GFLOPs, or of its latency on this device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from raycomp.config import SweepConfig
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.deploy.latency_fit import Timing, fitted, widths_alone
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.flops import gflops
from raycomp.memory import keep_freed_memory
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.recover import pruned_by_nvit
from raycomp.shape import Size
from raycomp.training_loop import preloaded


@dataclass(frozen=True)
class Pruned:
    """A pruned model and the inputs of its pruning."""

    model: Segmenter
    checkpoint: str
    """Fingerprint of the dense model's file."""
    image: Size
    table: LatencyTable | None
    """Latency table of this device, if latency was used."""


def pruned(config: SweepConfig, share: float, by_latency: bool, say: Callable[[str], None]) -> Pruned:
    """Prune until the cost is at most a share of the dense model's.

    Args:
        by_latency: Whether the cost is the predicted latency instead of GFLOPs.

    Raises:
        UserError: If NViT cannot reach the share.
    """
    device = default_device()
    context = prepare_context(config, say, criterion=config.nvit.criterion)
    shape, image = context.shape, context.window
    keep_freed_memory()
    table = None
    if by_latency or config.nvit.latency_weight:
        say("timing models of several widths")
        dtype = getattr(torch, config.evaluation.dtype)
        timing = Timing(config.evaluation.batch, device, dtype, threads=torch.get_num_threads())
        table = fitted(widths_alone(shape, image), timing)

    def cost(recipe: Recipe) -> float:
        return table.latency_ms(recipe) if table is not None and by_latency else gflops(shape, recipe, image)

    samples = preloaded(config, config.nvit.training_steps, say)
    result = pruned_by_nvit(context, cost, share * cost(dense(shape)), device, table, samples)
    if not result.reached:
        minimum = result.cost / cost(dense(shape))
        raise UserError(f"NViT cannot reach {share:.0%} of dense: the minimum is {minimum:.0%}")
    return Pruned(result.model, context.checkpoint, image, table)
