# SPDX-License-Identifier: Apache-2.0
"""Train a network: the paper's loop (REFERENCE 1), or AdamW for small models.

Random draws of step s depend on (seed, s) alone, and those of its image i on (seed, s, i), so neither the number of
loader processes nor an interruption changes the result. In a process group (`raycomp.parallel`), every process takes
its share of each batch.
"""

import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from raycomp import parallel
from raycomp.config import SweepConfig
from raycomp.data.augment import augment, padded
from raycomp.data.samples import IGNORE, NORMALIZATIONS, Sample, Samples
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.evaluate.sliding import normalised
from raycomp.files import fetched, written
from raycomp.losses import Loss, pixel_loss
from raycomp.settings.training import TrainConfig
from raycomp.shape import OWN_SIZE, ModelShape, Scale, Size
from raycomp.storage import AnyPath

_POLY_POWER = 0.9
_SAVE_EVERY = 200  # steps between saved states
_MAX_UNLABELLED = 50  # batches without a label, from the start, before training fails

Trained = TypeVar("Trained", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """The progress of a training."""

    step: int
    steps: int
    loss: float
    lr: float
    seconds: float
    """Time of all its steps, without interruptions and the steps they lost."""


class _Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Item s is this process's share of the batch of step s.

    It holds images (B, H, W, 3) uint8, labels (B, H, W) uint8, and each image's height and width before padding (B, 2).
    """

    def __init__(self, samples: Samples, crop: Size, config: TrainConfig, scale: Scale) -> None:
        self.samples, self.crop, self.config, self.scale = samples, crop, config, scale
        # Set here, as loader processes are in no process group.
        self.places = range(parallel.rank(), config.batch, parallel.world())

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.config.seed, step])
        chosen = rng.choice(len(self.samples), self.config.batch, replace=len(self.samples) < self.config.batch)
        drawn = []
        for place in self.places:
            image_rng = np.random.default_rng([self.config.seed, step, place])
            sample = self.samples[int(chosen[place])]
            drawn.append(augment(sample, self.crop, self.config.augment, image_rng, self.scale))
        sizes = torch.tensor([label.shape for _, label in drawn])
        images, labels = zip(*(padded(sample, self.crop) for sample in drawn), strict=True)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), sizes


def train(
    model: Trained,
    shape: ModelShape,
    samples: Samples,
    config: TrainConfig,
    device: torch.device,
    report: Callable[[TrainingProgress], None],
    loss: Loss = pixel_loss,
    state: AnyPath | None = None,
    identity: str = "",
    scale: Scale = OWN_SIZE,
) -> Trained:
    """Train `model` in place for `config.steps` steps.

    Args:
        shape: Gives the pixel normalisation, and the crop if `config` has none.
        state: File to save the training to, regularly and at its end, and to resume from if it exists; the result is
            the same as without an interruption. Remove it once the result is saved.
        identity: Whatever else determines the result, such as settings of `loss`.
        scale: The image size that `config.augment.scale` varies.

    Returns:
        The model to keep: the averaged weights if `config.ema` is set, else `model` itself.

    Raises:
        UserError: If nothing is labelled, the loss is not finite, `state` belongs to another training, or the
            processes of a group cannot share a batch evenly.
    """
    if config.batch % parallel.world():
        raise UserError(f"train.batch is {config.batch}: {parallel.world()} workers cannot share it evenly")
    crop, pixels = config.crop or shape.image, NORMALIZATIONS[shape.normalization]
    model.to(device).train()
    optimizer = _optimizer(model, config)
    average = AveragedModel(model) if config.ema else None
    identity = f"{samples.fingerprint}{identity}" + ("" if scale == OWN_SIZE else f" {scale}")
    parts = {"model": model, "optimizer": optimizer} | ({} if average is None else {"average": average})
    saved = _Saved(state, f"{config.model_dump_json()} {identity}", **parts)
    first, started, seconds_before = saved.restore(), time.monotonic(), 0.0
    if saved.progress is not None:
        seconds_before = saved.progress.seconds
        report(saved.progress)
    batches = DataLoader(
        _Batches(samples, crop, config, scale),
        batch_size=None,
        num_workers=config.workers,
        sampler=range(first, config.steps),
        pin_memory=device.type == "cuda",  # lets copies overlap with computation
    )
    labelled = first > 0 or parallel.world() > 1  # an earlier run saw labels; other processes may
    for step, (images, labels, sizes) in enumerate(batches, start=first):
        labelled = labelled or bool((labels != IGNORE).any())
        if not labelled and step + 1 == min(first + _MAX_UNLABELLED, config.steps):
            raise UserError(f"training: no labelled pixel in {step + 1 - first} batches (data.train_split)")
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))  # drop path
        rate = _rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = (part.to(device, non_blocking=True) for part in (images, labels))
        x = without_padding(normalised(images, pixels.mean, pixels.std, torch.float32), sizes)
        optimizer.zero_grad(set_to_none=True)
        figures: list[Tensor] = []
        for part in _parts(loss(model, x, labels), device, config.precision):
            part.backward()
            figures.append(part.detach().double())
        parallel.average_gradients(model.parameters())
        figures.append(nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf).double())
        *values, norm = torch.stack(figures).tolist()  # the only synchronisation with the device in a step
        value = 0.0
        for figure in values:
            value += figure
            if not math.isfinite(value) and parallel.world() == 1:  # a group detects it together, by the gradient
                raise saved.diverged("loss", value, step, config)
        if not math.isfinite(norm):
            raise saved.diverged("gradient norm", norm, step, config)
        optimizer.step()
        if average is not None and config.ema:
            _follow(average, model, config.ema)
        seconds = seconds_before + time.monotonic() - started
        progress = TrainingProgress(step + 1, config.steps, value, rate, seconds)
        if parallel.rank() == 0 and (progress.step % _SAVE_EVERY == 0 or progress.step == config.steps):
            saved.write(progress)
        report(progress)
    kept: Trained = model if average is None else average.module  # type: ignore[assignment]
    return kept.eval()


def without_padding(images: Tensor, sizes: Tensor) -> Tensor:
    """Set the padding of normalised images (B, 3, H, W) to zero.

    Args:
        sizes: (B, 2) heights and widths before padding, on the CPU to avoid synchronising with the device.
    """
    height, width = images.shape[-2:]
    if bool((sizes == torch.tensor([height, width])).all()):
        return images
    rows, columns = sizes.to(images.device, non_blocking=True)[..., None].unbind(1)
    inside = (torch.arange(height, device=images.device) < rows)[:, None, :, None]
    return images * (inside & (torch.arange(width, device=images.device) < columns)[:, None, None, :])


@torch.no_grad()
def _follow(average: AveragedModel, model: nn.Module, decay: float) -> None:
    """Update the moving average like `AveragedModel.update_parameters`, which would synchronise with the device."""
    averaged: list[Tensor] = list(average.module.parameters())
    new: list[Tensor] = list(model.parameters())
    if average.n_averaged == 0:  # a CPU tensor
        torch._foreach_copy_(averaged, new)
    else:
        get_ema_multi_avg_fn(decay)(averaged, new, average.n_averaged)
    for kept, buffer in zip(average.module.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
    average.n_averaged += 1


def _parts(parts: Iterator[Tensor], device: torch.device, precision: str) -> Iterator[Tensor]:
    """Compute each part of a loss under autocast, and leave autocast for its backward pass."""
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            part = next(parts, None)
        if part is None:
            return
        yield part


class _Saved:
    """The state a training resumes from: its progress, and parts with a `state_dict` each."""

    def __init__(self, path: AnyPath | None, settings: str, **parts: Any) -> None:
        self._path, self._settings, self._parts = path, settings, parts
        self.progress: TrainingProgress | None = None
        """Progress of the saved training; None if none is saved."""

    def restore(self) -> int:
        """Load the state if it exists, and return the number of completed steps.

        It is loaded to the CPU, from which weights and moments move to the model's device. The optimiser's step counts
        stay on the CPU; on a GPU, every step would wait for each of them.
        """
        if self._path is None or not self._path.is_file():
            return 0
        try:
            with fetched(self._path) as local:
                stored = torch.load(local, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
            kind = type(error).__name__
            raise UserError(f"{self._path}: not a readable training state ({kind}); delete it") from None
        if stored["settings"] != self._settings:
            problem = "belongs to a training with other settings or data; delete it to start again"
            raise UserError(f"{self._path}: {problem}")
        for name, part in self._parts.items():
            part.load_state_dict(stored[name])
        self.progress = TrainingProgress(**stored["standing"])
        return self.progress.step

    def diverged(self, what: str, value: float, step: int, config: TrainConfig) -> UserError:
        """Return the error for a value that is not finite: its step, a remedy, and where the last good weights are."""
        kept = f"; {self._path} keeps the weights of step {self.progress.step}" if self.progress else ""
        return UserError(f"training: {what} is {value} at step {step + 1}; a train.lr below {config.lr} may help{kept}")

    def write(self, progress: TrainingProgress) -> None:
        if self._path is None:
            return
        self.progress = progress
        states = {name: part.state_dict() for name, part in self._parts.items()}
        with written(self._path) as temporary:
            torch.save({"standing": asdict(progress), "settings": self._settings, **states}, temporary)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build SGD or AdamW, with weight decay on matrices only, not on biases, norms and embeddings."""
    matrices = [p for p in model.parameters() if p.ndim in (2, 4)]
    others = [p for p in model.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)  # timm's sgd
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate: linear warm-up, then polynomial decay to `min_lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 - min(1.0, done)) ** _POLY_POWER


def preloaded(config: SweepConfig, steps: int, report: Callable[[str], None]) -> "Preloaded | None":
    """Draw the scenes a training of `steps` steps can use; None for no steps, or a data set of files."""
    if config.data.dataset != "streetscenes" or not steps:
        return None
    used = steps * config.train.batch
    count = min(config.train.images or used, used)
    report(f"drawing {count} training scenes")
    return Preloaded(StreetScenes(config.data.train_split, count))


class Preloaded:
    """Scenes drawn once and kept in memory, as drawing is slow."""

    def __init__(self, samples: StreetScenes) -> None:
        self.classes, self.fingerprint = samples.classes, samples.fingerprint
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            self._kept: list[Sample] = list(pool.map(samples.__getitem__, range(len(samples)), chunksize=64))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._kept[index]
