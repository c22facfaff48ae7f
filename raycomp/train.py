"""Train a dense Segmenter: the paper's loop (REFERENCE 1), or AdamW for a small model from scratch.

Every random draw of step s comes from (seed, s) alone, so that neither the number of loader
processes nor an interruption changes what is trained.
"""

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from raycomp.config import TrainConfig
from raycomp.data.augment import augment
from raycomp.data.samples import IGNORE, NORMALIZATIONS, Sample, Samples
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.evaluate.miou import normalised
from raycomp.models.segmenter import Segmenter
from raycomp.shape import Size

_POLY_POWER = 0.9


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands."""

    step: int
    steps: int
    loss: float
    lr: float


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Item s is the whole batch of step s: images (B, H, W, 3) uint8, labels (B, H, W) uint8."""

    def __init__(self, samples: Samples, crop: Size, config: TrainConfig) -> None:
        self.samples, self.crop, self.config = samples, crop, config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.config.seed, step])
        chosen = rng.choice(len(self.samples), self.config.batch, replace=len(self.samples) < self.config.batch)
        drawn = [augment(self.samples[int(i)], self.crop, self.config.augment, rng) for i in chosen]
        images, labels = (np.stack(part) for part in zip(*drawn, strict=True))
        return torch.from_numpy(images), torch.from_numpy(labels)


def train(
    model: Segmenter, samples: Samples, config: TrainConfig, device: torch.device, report: Callable[[Progress], None]
) -> Segmenter:
    """Train `model` in place for `config.steps` steps.

    Returns:
        The model to keep: the averaged weights if `config.ema` is set, else `model` itself.

    Raises:
        UserError: when the loss is no longer finite.
    """
    crop = config.crop or model.shape.image
    pixels = NORMALIZATIONS[model.shape.normalization]
    batches = DataLoader(_Batches(samples, crop, config), batch_size=None, num_workers=config.workers)
    model.to(device).train()
    optimizer = _optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config) / config.lr)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    torch.manual_seed(config.seed)  # drop path
    for step, (images, labels) in enumerate(batches):
        x = normalised(images.to(device), pixels.mean, pixels.std, torch.float32)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), labels.to(device).long(), ignore_index=IGNORE)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"training: loss is {value} at step {step + 1}; a smaller train.lr than {config.lr} may help"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(model)
        report(Progress(step + 1, config.steps, value, optimizer.param_groups[0]["lr"]))
    kept = model if average is None else average.module
    assert isinstance(kept, Segmenter)
    return kept.eval()


def _optimizer(model: Segmenter, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices alone, not on biases, norms and embeddings."""
    matrices = [p for p in model.parameters() if p.ndim in (2, 4)]
    others = [p for p in model.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then the polynomial schedule down to `min_lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 - min(1.0, done)) ** _POLY_POWER


class Preloaded:
    """Samples drawn once and kept in memory; worth it where drawing costs more than remembering."""

    def __init__(self, samples: StreetScenes, processes: int) -> None:
        self.classes, self.fingerprint = samples.classes, samples.fingerprint
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            self._kept: list[Sample] = list(pool.map(samples.__getitem__, range(len(samples)), chunksize=64))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._kept[index]
