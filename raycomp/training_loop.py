"""Train a network: the paper's loop (REFERENCE 1), or AdamW for small models.

Every random draw of step s comes from (seed, s) alone, and of its image i from (seed, s, i), so that neither the
number of loader processes nor an interruption changes what is trained. In a process group (`raycomp.parallel`) every
process takes its share of each batch.
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
from raycomp.evaluate.miou import normalised
from raycomp.files import fetched, written
from raycomp.losses import Loss, pixel_loss
from raycomp.settings.training import TrainConfig
from raycomp.shape import OWN_SIZE, ModelShape, Scale, Size
from raycomp.storage import AnyPath

_POLY_POWER = 0.9
_SAVE_EVERY = 200  # steps between saved states
_UNLABELLED = 50  # batches without a label, from the start, after which there are none to be expected

Trained = TypeVar("Trained", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a training stands."""

    step: int
    steps: int
    loss: float
    lr: float
    seconds: float
    """Of all its steps; interruptions, and what they lost, are left out."""


class _Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Item s is this process's share of the batch of step s.

    Images (B, H, W, 3) uint8, labels (B, H, W) uint8, and the height and width of each image before padding (B, 2).
    """

    def __init__(self, samples: Samples, crop: Size, config: TrainConfig, scale: Scale) -> None:
        self.samples, self.crop, self.config, self.scale = samples, crop, config, scale
        self.places = range(parallel.rank(), config.batch, parallel.world())  # loader processes are in no group

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.config.seed, step])
        chosen = rng.choice(len(self.samples), self.config.batch, replace=len(self.samples) < self.config.batch)
        drawn = []
        for place in self.places:
            own = np.random.default_rng([self.config.seed, step, place])
            drawn.append(augment(self.samples[int(chosen[place])], self.crop, self.config.augment, own, self.scale))
        sizes = torch.tensor([label.shape for _, label in drawn])
        images, labels = zip(*(padded(sample, self.crop) for sample in drawn), strict=True)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), sizes


def train(
    model: Trained,
    shape: ModelShape,
    samples: Samples,
    config: TrainConfig,
    device: torch.device,
    report: Callable[[Standing], None],
    loss: Loss = pixel_loss,
    state: AnyPath | None = None,
    identity: str = "",
    scale: Scale = OWN_SIZE,
) -> Trained:
    """Train `model` in place for `config.steps` steps.

    Args:
        shape: gives the pixel normalisation, and the crop where `config` has none.
        state: file that the training is saved to every now and then and at its end, and goes on from if it
            is there; what comes out is the same as without an interruption. Remove it once the result is kept.
        identity: whatever else than the other arguments decides what is trained, such as what `loss` holds.
        scale: the size of images that `config.augment.scale` varies.

    Returns:
        The model to keep: the averaged weights if `config.ema` is set, else `model` itself.

    Raises:
        UserError: when nothing is labelled, the loss is no longer finite, `state` is of another training, or the
            processes of a group cannot share a batch evenly.
    """
    if config.batch % parallel.world():
        raise UserError(f"train.batch is {config.batch}: {parallel.world()} workers cannot share it evenly")
    crop, pixels = config.crop or shape.image, NORMALIZATIONS[shape.normalization]
    model.to(device).train()
    optimizer = _optimizer(model, config)
    average = AveragedModel(model) if config.ema else None
    identity = f"{samples.fingerprint}{identity}" + ("" if scale == OWN_SIZE else f" {scale}")
    saved = _Saved(state, model, optimizer, average, f"{config.model_dump_json()} {identity}")
    first = saved.restore()
    before, started = saved.standing, time.monotonic()
    if before is not None:
        report(before)
    batches = DataLoader(
        _Batches(samples, crop, config, scale),
        batch_size=None,
        num_workers=config.workers,
        sampler=range(first, config.steps),
        pin_memory=device.type == "cuda",  # so that a batch is copied while the device computes
    )
    labelled = first > 0 or parallel.world() > 1  # an earlier run has seen labels; other processes may see them
    for step, (images, labels, sizes) in enumerate(batches, start=first):
        labelled = labelled or bool((labels != IGNORE).any())
        if not labelled and step + 1 == min(first + _UNLABELLED, config.steps):
            raise UserError(f"training: no pixel is labelled in {step + 1 - first} batches (data.train_split)")
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
        *values, norm = torch.stack(figures).tolist()  # the one wait for the device in a step
        value = 0.0
        for figure in values:
            value += figure
            if not math.isfinite(value) and parallel.world() == 1:  # several learn of it together, from the gradient
                raise saved.diverged("loss", value, step, config)
        if not math.isfinite(norm):
            raise saved.diverged("norm of the gradient", norm, step, config)
        optimizer.step()
        if average is not None and config.ema:
            _follow(average, model, config.ema)
        seconds = time.monotonic() - started + (before.seconds if before is not None else 0.0)
        standing = Standing(step + 1, config.steps, value, rate, seconds)
        if parallel.rank() == 0 and (standing.step % _SAVE_EVERY == 0 or standing.step == config.steps):
            saved.write(standing)
        report(standing)
    kept: Trained = model if average is None else average.module  # type: ignore[assignment]
    return kept.eval()


def without_padding(images: Tensor, sizes: Tensor) -> Tensor:
    """Zero normalised images (B, 3, H, W) beyond the height and width that they had before padding.

    Args:
        sizes: (B, 2), on the CPU, where it is known without waiting for the device whether any is smaller.
    """
    height, width = images.shape[-2:]
    if bool((sizes == torch.tensor([height, width])).all()):
        return images
    rows, columns = sizes.to(images.device, non_blocking=True)[..., None].unbind(1)
    inside = (torch.arange(height, device=images.device) < rows)[:, None, :, None]
    return images * (inside & (torch.arange(width, device=images.device) < columns)[:, None, None, :])


@torch.no_grad()
def _follow(average: AveragedModel, model: nn.Module, decay: float) -> None:
    """Update an exponential moving average: as its own method, which copies its count to the device and waits."""
    own: list[Tensor] = list(average.module.parameters())
    new: list[Tensor] = list(model.parameters())
    if average.n_averaged == 0:  # it lies on the CPU
        torch._foreach_copy_(own, new)
    else:
        get_ema_multi_avg_fn(decay)(own, new, average.n_averaged)
    for kept, buffer in zip(average.module.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
    average.n_averaged += 1


def _parts(parts: Iterator[Tensor], device: torch.device, precision: str) -> Iterator[Tensor]:
    """Compute each part of a loss under autocast, and leave it for the backward pass."""
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            part = next(parts, None)
        if part is None:
            return
        yield part


class _Saved:
    """Everything a training needs to go on: weights, averaged weights, optimiser, step."""

    def __init__(
        self,
        path: AnyPath | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        settings: str,
    ) -> None:
        self._path, self._settings = path, settings
        self.standing: Standing | None = None
        """Where the saved training stands; None before there is one."""
        self._parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if average is not None:
            self._parts["average"] = average

    def restore(self) -> int:
        """Load the state if there is one: the steps that are done.

        It is read to the CPU: weights and moments go from there to where the model is, but the optimiser's step
        counts stay where they are read to, and on a GPU every step would wait for each of them.
        """
        if self._path is None or not self._path.is_file():
            return 0
        try:
            with fetched(self._path) as local:
                held = torch.load(local, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{self._path}: not a readable training state ({type(error).__name__}); delete it"
            ) from None
        if held["settings"] != self._settings:
            raise UserError(
                f"{self._path}: belongs to a training with other settings or data; delete it to start afresh"
            )
        for name, part in self._parts.items():
            part.load_state_dict(held[name])
        self.standing = Standing(**held["standing"])
        return self.standing.step

    def diverged(self, what: str, value: float, step: int, config: TrainConfig) -> UserError:
        """What to say of a figure that is not finite: which step, what may help, where the last good weights are."""
        kept = f"; {self._path} keeps the weights of step {self.standing.step}" if self.standing else ""
        return UserError(
            f"training: {what} is {value} at step {step + 1}; a smaller train.lr than {config.lr} may help{kept}"
        )

    def write(self, standing: Standing) -> None:
        if self._path is None:
            return
        self.standing = standing
        states = {name: part.state_dict() for name, part in self._parts.items()}
        with written(self._path) as temporary:
            torch.save({"standing": asdict(standing), "settings": self._settings, **states}, temporary)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices alone, not on biases, norms and embeddings."""
    matrices = [p for p in model.parameters() if p.ndim in (2, 4)]
    others = [p for p in model.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)  # as timm's sgd
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then the polynomial schedule down to `min_lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 - min(1.0, done)) ** _POLY_POWER


def preloaded(config: SweepConfig, steps: int, report: Callable[[str], None]) -> "Preloaded | None":
    """The scenes that trainings of `steps` steps can make use of; None for none, or for a data set that is files."""
    if config.data.dataset != "streetscenes" or not steps:
        return None
    most = steps * config.train.batch
    count = min(config.train.images or most, most)
    report(f"drawing {count} training scenes")
    return Preloaded(StreetScenes(config.data.train_split, count))


class Preloaded:
    """Scenes drawn once and kept in memory; drawing costs more than remembering."""

    def __init__(self, samples: StreetScenes) -> None:
        self.classes, self.fingerprint = samples.classes, samples.fingerprint
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            self._kept: list[Sample] = list(pool.map(samples.__getitem__, range(len(samples)), chunksize=64))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._kept[index]
