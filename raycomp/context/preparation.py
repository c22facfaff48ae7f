"""Prepare the context of a sweep: load checkpoints and data, and check that they fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raycomp.config import SweepConfig
from raycomp.context.calibration import Scorer, cached_scores, calibration_crops
from raycomp.context.sweep_context import Elastic, SweepContext
from raycomp.data.evalset import Stack, cache_folder, prepare
from raycomp.data.labelled import absent_classes, check_stages
from raycomp.errors import UserError
from raycomp.merging import METHODS
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.results.row import Row
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape
from raycomp.space import Space
from raycomp.storage import AnyPath


def prepare_context(
    config: SweepConfig,
    report: Callable[[str], None],
    with_policy: bool = False,
    criterion: Criterion | None = None,
    scorer: "Scorer | None" = None,
) -> SweepContext:
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
    return SweepContext(
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


def check_same(rows: Sequence[Row], context: SweepContext, folder: AnyPath) -> None:
    """Refuse to go on where the checkpoint or the images behind the same names have changed.

    Raises:
        UserError: naming what changed.
    """
    now = {"checkpoint": context.mark, "evalset": context.evalset.fingerprint}
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
