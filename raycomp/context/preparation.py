# SPDX-License-Identifier: Apache-2.0
"""Prepare the context of a sweep: load checkpoints and data, and check that they fit together."""

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
    scorer: Scorer | None = None,
) -> SweepContext:
    """Load checkpoint and data, and compute saliencies or read cached ones; an elastic model needs none.

    Args:
        report: Called with a line about each slow step.
        with_policy: Whether to load the policy network even if the search space does not need it.
        criterion: The saliency criterion; by default that of the search.
        scorer: Computes saliencies; by default in this process.

    Raises:
        UserError: If checkpoint, data set and number of classes do not fit together.
    """
    path = checkpoints.locate(config.model.checkpoint)
    model = checkpoints.load(path, config.model.shape)
    fingerprint = checkpoints.fingerprint(path)
    with_policy = with_policy or METHODS[config.space.merge].needs_policy
    policy_path = _policy_path(config) if with_policy else None
    policy = None if policy_path is None else _policy(policy_path, config, model.shape)

    def on_variant(done: int, total: int) -> None:
        if done == 1 or done % 20 == 0:
            report(f"corrupting evaluation images, variant {done} of {total} (kept in {cache_folder()})")

    evalset = prepare(config.data, config.evaluation, on_variant)
    if len(evalset.classes) != model.shape.classes:
        raise UserError(
            f"the model has {model.shape.classes} classes, {config.data.dataset} has {len(evalset.classes)}"
        )
    check_stages(evalset, config.evaluation)
    if warning := absent_classes(evalset.labels.views(), evalset.classes, config.data.eval_split):
        report(warning)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    scores = None
    if criterion is not None or config.recovery.mode != "elastic":  # otherwise only the dense recipe is not elastic
        inputs = f"{fingerprint}-{evalset.fingerprint}"
        scores = cached_scores(model, config, criterion or config.search.criterion, inputs, report, scorer)
    in_memory = Stack(np.array(evalset.images.pixels), evalset.images.shapes)
    labels = Stack(np.array(evalset.labels.pixels), evalset.labels.shapes)
    originals = evalset.originals and Stack(np.array(evalset.originals.pixels), evalset.originals.shapes)
    root = None if config.data.root is None else config.data.root.resolve()  # workers run in other folders
    return SweepContext(
        config=config.changed("data", root=root),
        shape=model.shape,
        checkpoint=fingerprint,
        weights=weights,
        scores=None if scores is None else {name: score.numpy() for name, score in scores.items()},
        evalset=replace(evalset, images=in_memory, labels=labels, originals=originals),
        policy_weights=None if policy is None else {name: t.numpy() for name, t in policy.state_dict().items()},
        policy_checkpoint="" if policy_path is None else checkpoints.fingerprint(policy_path),
        elastic=_elastic(config, model.shape),
        calibration=calibration_crops(model.shape, config)[0] if config.recovery.mode == "reconstruct" else None,
    )


def trained_space(config: SweepConfig, shape: ModelShape) -> Space | None:
    """Return the space an elastic model was trained over; None if the recovery needs no elastic model.

    Raises:
        UserError: If the model is missing, or the search space exceeds its space.
    """
    if config.recovery.mode != "elastic":
        return None
    if config.model.elastic is None:
        raise UserError(
            "field 'model.elastic' is missing: recovery.mode elastic needs a model (raycomp train --elastic)"
        )
    path, window = checkpoints.locate(config.model.elastic, "model.elastic"), config.data.window_for(shape)
    trained = Space(shape, checkpoints.elastic_space(path), window)
    space = Space.of(config, shape)
    if problem := trained.outside(space.recipe(space.smallest)):
        raise UserError(f"space: exceeds the space {path} was trained over: {problem}")
    return trained


def _elastic(config: SweepConfig, shape: ModelShape) -> Elastic | None:
    space = trained_space(config, shape)
    if space is None or config.model.elastic is None:
        return None
    path = checkpoints.locate(config.model.elastic, "model.elastic")
    weights = {name: tensor.numpy() for name, tensor in checkpoints.load(path, shape).state_dict().items()}
    return Elastic(weights, space, checkpoints.fingerprint(path))


def check_same(rows: Sequence[Row], context: SweepContext, folder: AnyPath) -> None:
    """Check that rows were measured with this checkpoint and these images, as files of the same name may change.

    Raises:
        UserError: If one has changed.
    """
    now = {"checkpoint": context.fingerprint, "evalset": context.evalset.fingerprint}
    for field, value in now.items():
        other = next((before for row in rows if (before := getattr(row, field)) != value), None)
        if other is not None:
            raise UserError(
                f"results folder {folder}: rows were measured with {field} {other}, now {value}; choose another --name"
            )


def _policy_path(config: SweepConfig) -> Path:
    if config.policy.checkpoint is None:
        raise UserError("field 'policy.checkpoint' is missing: CTS needs a policy network (raycomp train --policy)")
    return checkpoints.locate(config.policy.checkpoint, "policy.checkpoint")


def _policy(path: Path, config: SweepConfig, shape: ModelShape) -> Policy:
    policy = checkpoints.load_policy(path, shape)
    if policy.kind != config.policy.kind:
        raise UserError(f"{path}: holds a policy of kind {policy.kind}, but policy.kind is {config.policy.kind}")
    return policy
