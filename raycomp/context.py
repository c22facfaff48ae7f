"""What all trials of a sweep share: dense weights, saliencies, evaluation images, as plain arrays.

Arrays travel through Ray's object store without a copy; tensors would be pickled for every actor.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from raycomp.compress import saliency as saliencies
from raycomp.compress.apply import compress
from raycomp.config import SweepConfig
from raycomp.data.datasets import open_split
from raycomp.data.evalset import EvalSet, Stack, cache_folder, prepare
from raycomp.data.labelled import absent_classes, check_stages
from raycomp.data.resize import at_least, centre
from raycomp.data.samples import IGNORE, NORMALIZATIONS, Sample
from raycomp.devices import prepare_device
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.miou import normalised
from raycomp.merging import METHODS
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter, empty
from raycomp.recipe import Recipe, dense
from raycomp.results.row import Row
from raycomp.sections import Criterion
from raycomp.shape import ModelShape
from raycomp.space import Space
from raycomp.storage import AnyPath

Network = TypeVar("Network", bound=nn.Module)

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Elastic:
    """The dense model trained for many recipes."""

    weights: dict[str, np.ndarray]
    space: Space
    """The recipes it was trained over."""
    checkpoint: str
    """Fingerprint of its file."""


@dataclass(frozen=True)
class Base:
    """The dense model and the data of a sweep."""

    config: SweepConfig
    shape: ModelShape
    checkpoint: str
    """Fingerprint of the checkpoint file."""
    weights: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] | None
    """Saliency of every unit of the dense model; None where no recipe is cut by it."""
    evalset: EvalSet
    policy_weights: dict[str, np.ndarray] | None = None
    """Of the policy network of CTS, where one is wanted."""
    policy_checkpoint: str = ""
    """Fingerprint of its file."""
    elastic: "Elastic | None" = None
    """The elastic model that recipes are cut from, where the recovery says so."""
    calibration: np.ndarray | None = None
    """Training images (n, H, W, 3) uint8 that the recovery refits cut models on, where it does."""
    latency: LatencyTable | None = None
    """Of this device, where the sweep limits time."""

    def __getstate__(self) -> dict[str, Any]:
        """The arrays alone: every process makes its own networks over them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def policy(self) -> Policy | None:
        """The policy network, over these same arrays."""
        if self.policy_weights is None:
            return None
        policy = Policy(self.config.policy.kind, self.shape.patch)
        policy.load_state_dict({name: torch.from_numpy(w) for name, w in self.policy_weights.items()}, assign=True)
        return policy.eval()

    @cached_property
    def model(self) -> Segmenter:
        """The dense model, over these same arrays."""
        return over(self.weights, self.shape)

    @cached_property
    def elastic_model(self) -> Segmenter:
        """The elastic model at full width, over these same arrays; where there is one."""
        assert self.elastic is not None
        return over(self.elastic.weights, self.shape)

    @cached_property
    def _elsewhere(self) -> dict[tuple[nn.Module, torch.device], nn.Module]:
        return {}

    def placed(self, network: Network, device: torch.device) -> Network:
        """One of this object's networks on a device, copied there once; not to be changed."""
        if device.type == "cpu":
            return network
        if (network, device) not in self._elsewhere:
            self._elsewhere[network, device] = deepcopy(network).to(device)
        return cast("Network", self._elsewhere[network, device])

    def cut(self, recipe: Recipe, device: torch.device = _CPU) -> Segmenter:
        """The model of a recipe: from the elastic model where there is one, but the dense recipe is the dense model.

        It is cut on the device, from weights that lie there from the first cut on.

        Raises:
            UserError: for a recipe that does not fit the model, or that the elastic model was not trained for.
        """
        shares = recipe.merge is not None and recipe.merge.needs_policy
        policy = self.placed(self.policy, device) if self.policy and shares else None
        if self.elastic is None or recipe == dense(self.shape):
            scores = None if self.scores is None else self.saliency
            return compress(self.placed(self.model, device), recipe, scores, policy)
        if problem := self.elastic.space.outside(recipe):
            raise UserError(f"recipe: outside of what the elastic model was trained over: {problem}")
        return compress(self.placed(self.elastic_model, device), recipe, None, policy)

    @property
    def mark(self) -> str:
        """What measurements of a recipe depend on: fingerprints of the model files."""
        return self.checkpoint if self.elastic is None else f"{self.checkpoint} {self.elastic.checkpoint}"

    @cached_property
    def saliency(self) -> saliencies.Saliency:
        assert self.scores is not None
        return {name: torch.from_numpy(score) for name, score in self.scores.items()}


def prepare_base(
    config: SweepConfig,
    report: Callable[[str], None],
    with_policy: bool = False,
    criterion: Criterion | None = None,
    scorer: "Scorer | None" = None,
) -> Base:
    """Load checkpoint and data, and compute or read the cached saliencies; an elastic model is cut without any.

    Args:
        report: called with a line about each step that takes time.
        with_policy: whether to load the policy network, too, where the search space does not need it.
        criterion: the score of a unit; by default that of the search.
        scorer: what computes saliencies; by default this process.

    Raises:
        UserError: for a checkpoint, data set or class count that does not fit.
    """
    path = checkpoints.locate(config.model.checkpoint)
    model = checkpoints.load(path, config.model.shape)
    mark = checkpoints.fingerprint(path)
    with_policy = with_policy or METHODS[config.space.merge].needs_policy
    policy_path = _policy_path(config) if with_policy else None
    policy = None if policy_path is None else _policy(policy_path, config, model.shape)

    def variant(done: int, total: int) -> None:
        if done == 1 or done % 20 == 0:
            report(f"corrupting evaluation images, variant {done} of {total} (kept in {cache_folder()})")

    evalset = prepare(config.data, config.evaluation, variant)
    if len(evalset.classes) != model.shape.classes:
        raise UserError(f"model has {model.shape.classes} classes, {config.data.dataset} {len(evalset.classes)}")
    check_stages(evalset, config.evaluation)
    if warning := absent_classes(evalset.labels.views(), evalset.classes, config.data.eval_split):
        report(warning)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    scores = None
    if criterion is not None or config.recovery.mode != "elastic":  # else all but the dense recipe are elastic
        of = f"{mark}-{evalset.fingerprint}"
        scores = cached_scores(model, config, criterion or config.search.criterion, of, report, scorer)
    in_memory = Stack(np.array(evalset.images.pixels), evalset.images.shapes)
    labels = Stack(np.array(evalset.labels.pixels), evalset.labels.shapes)
    originals = evalset.originals and Stack(np.array(evalset.originals.pixels), evalset.originals.shapes)
    root = None if config.data.root is None else config.data.root.resolve()  # workers may run in another folder
    return Base(
        config=config.changed("data", root=root),
        shape=model.shape,
        checkpoint=mark,
        weights=weights,
        scores=None if scores is None else {name: score.numpy() for name, score in scores.items()},
        evalset=replace(evalset, images=in_memory, labels=labels, originals=originals),
        policy_weights=None if policy is None else {name: t.numpy() for name, t in policy.state_dict().items()},
        policy_checkpoint="" if policy_path is None else checkpoints.fingerprint(policy_path),
        elastic=_elastic(config, model.shape),
        calibration=calibration_crops(model.shape, config)[0] if config.recovery.mode == "reconstruct" else None,
    )


def over(weights: dict[str, np.ndarray], shape: ModelShape) -> Segmenter:
    """A dense model over arrays, which may be read-only."""
    model = empty(shape, dense(shape))
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, assign=True)
    return model.eval()


def trained_space(config: SweepConfig, shape: ModelShape) -> Space | None:
    """The recipes that the elastic model was trained over; None where the recovery needs no elastic model.

    Raises:
        UserError: where it is missing, or the search space goes beyond it.
    """
    if config.recovery.mode != "elastic":
        return None
    if config.model.elastic is None:
        raise UserError("field 'model.elastic' is missing: recovery.mode elastic needs one (raycomp train --elastic)")
    path, window = checkpoints.locate(config.model.elastic, "model.elastic"), config.data.window_for(shape)
    trained = Space(shape, checkpoints.elastic_space(path), window)
    space = Space(shape, config.space, window, policy=config.policy.kind)
    if problem := trained.outside(space.recipe(space.smallest)):
        raise UserError(f"space: goes beyond what {path} was trained over: {problem}")
    return trained


def _elastic(config: SweepConfig, shape: ModelShape) -> Elastic | None:
    space = trained_space(config, shape)
    if space is None or config.model.elastic is None:
        return None
    path = checkpoints.locate(config.model.elastic, "model.elastic")
    weights = {name: tensor.numpy() for name, tensor in checkpoints.load(path, shape).state_dict().items()}
    return Elastic(weights, space, checkpoints.fingerprint(path))


def check_same(rows: Sequence[Row], base: Base, folder: AnyPath) -> None:
    """Refuse to go on where the checkpoint or the images behind the same names have changed.

    Raises:
        UserError: naming what changed.
    """
    now = {"checkpoint": base.mark, "evalset": base.evalset.fingerprint}
    for field, value in now.items():
        other = next((there for row in rows if (there := getattr(row, field)) != value), None)
        if other is not None:
            raise UserError(
                f"results folder {folder}: rows were measured with {field} {other}, now {value}; choose another --name"
            )


def _policy_path(config: SweepConfig) -> Path:
    if config.policy.checkpoint is None:
        raise UserError("field 'policy.checkpoint' is missing: CTS needs one, which raycomp train --policy makes")
    return checkpoints.locate(config.policy.checkpoint, "policy.checkpoint")


def _policy(path: Path, config: SweepConfig, shape: ModelShape) -> Policy:
    policy = checkpoints.load_policy(path, shape)
    if policy.kind != config.policy.kind:
        raise UserError(f"{path}: holds a policy of kind {policy.kind}, policy.kind is {config.policy.kind}")
    return policy


Scorer = Callable[[Segmenter, SweepConfig, Criterion, Path], saliencies.Saliency]
"""Computes saliencies of a dense model; the file is for what an interrupted run leaves."""


def cached_scores(
    model: Segmenter,
    config: SweepConfig,
    criterion: Criterion,
    of: str,
    report: Callable[[str], None],
    scorer: Scorer | None = None,
) -> saliencies.Saliency:
    """Saliency of a dense model from the cache, or computed and put there.

    Args:
        of: fingerprints of the weights and images.
        report: called with a line where it is computed.
        scorer: what computes it; by default this process.
    """
    name = f"{criterion}-{of}-{config.nvit.images}x{config.nvit.batch}-{config.nvit.dtype}"
    cache = cache_folder() / f"saliency-{name}.safetensors"
    if cache.is_file():
        return saliencies.load(cache)
    report(f"scoring prunable units on {config.nvit.images} training images (kept in {cache.parent})")
    scores = (scorer or _scored_here)(model, config, criterion, cache.with_suffix(".part"))
    saliencies.save(scores, cache)
    return scores


def _scored_here(model: Segmenter, config: SweepConfig, criterion: Criterion, state: Path) -> saliencies.Saliency:
    return score(model, config, default_device(), criterion, state)


def default_device() -> torch.device:
    """The GPU where this process sees one, set up for many shapes, else the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_device(device)
    return device


def score(
    model: Segmenter, config: SweepConfig, device: torch.device, criterion: Criterion, state: Path | None = None
) -> saliencies.Saliency:
    """Saliency of a model, dense or pruned, on centre crops of the training split; see `saliency.compute`."""
    return score_on(calibration_crops(model.shape, config), model, config, device, criterion, state)


def score_on(
    crops: tuple[np.ndarray, np.ndarray],
    model: Segmenter,
    config: SweepConfig,
    device: torch.device,
    criterion: Criterion,
    state: Path | None = None,
) -> saliencies.Saliency:
    """The same on crops (n, H, W, 3) and labels (n, H, W) that `calibration_crops` gave."""
    model = model if device.type == "cpu" else deepcopy(model).to(device)
    batches = _calibration(crops, model.shape, config, device)
    return saliencies.compute(model, batches, criterion, getattr(torch, config.nvit.dtype), state)


def _calibration(
    crops: tuple[np.ndarray, np.ndarray], shape: ModelShape, config: SweepConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of crops, normalised."""
    batch, pixels = config.nvit.batch, NORMALIZATIONS[shape.normalization]
    images, labels = (torch.from_numpy(part) for part in crops)
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        yield normalised(x.to(device), pixels.mean, pixels.std, torch.float32), y.to(device)


def calibration_crops(shape: ModelShape, config: SweepConfig) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the calibration images of the training split, and their labels."""
    count, window = config.nvit.images, config.data.window_for(shape)
    samples = open_split(config.data, config.data.train_split, count)
    found: list[Sample] = []
    for index in range(min(count, len(samples))):
        image, label = centre(at_least(samples[index], window, config.data.scale), window)
        if (label != IGNORE).any():  # else the loss would be a mean over nothing, and saliency NaN
            found.append((image, label))
    if not found:
        raise UserError(f"data.train_split {config.data.train_split}: no pixel in the middle of an image is labelled")
    images, labels = zip(*found, strict=True)
    return np.stack(images), np.stack(labels)
