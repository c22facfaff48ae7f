# SPDX-License-Identifier: Apache-2.0
"""Train the policy network of CTS, which predicts which superpatches hold a single class."""

from functools import partial

import torch

from raycomp.evaluate.sharing import precision
from raycomp.losses import policy_loss
from raycomp.models.policy import Policy
from raycomp.trainers.job import TrainedNetwork, TrainingJob

_SHARES = (0.25, 0.5, 0.75, 0.9)


def train_policy(job: TrainingJob) -> TrainedNetwork[Policy]:
    """Train the network, and measure how many of its most confident superpatches hold a single class."""
    settings = job.sweep.policy
    torch.manual_seed(job.settings.seed)
    loss = partial(policy_loss, ignore_border=settings.ignore_border)
    policy, seconds = job.fit(Policy(settings.kind, job.shape.patch, settings.pretrained), loss)
    everywhere, among = precision(policy, job.crops(), _SHARES, settings.ignore_border)
    lines = [f"| best {share:.0%} | {value:.3f} |" for share, value in zip(_SHARES, among, strict=True)]
    table = "\n".join(["| superpatches | of one class |", "|---|---|", *lines, f"| all | {everywhere:.3f} |"])
    title = f"Policy network of CTS ({settings.kind}, {2 * job.shape.patch}-pixel superpatches)"
    summary = f"{among[1]:.1%} of the best half of the superpatches are of one class ({everywhere:.1%} of all)"
    return TrainedNetwork(policy, title, {"precision_at_half": f"{among[1]:.4f}"}, table, summary, seconds)
