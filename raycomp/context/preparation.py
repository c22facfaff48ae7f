# SPDX-License-Identifier: Apache-2.0
"""Prepare the context of a sweep: load checkpoints and data, and check that they fit together."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from raycomp.config import SweepConfig
from raycomp.context.calibration import Scorer, cached_scores, calibration_crops
from raycomp.context.sweep_context import Elastic, SweepContext
from raycomp.data.evalset import Stack, cache_folder, prepare
from raycomp.data.labelled import absent_classes, check_stages
from raycomp.errors import UserError
from raycomp.merging import METHODS
from raycomp.models import checkpoints
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
    quantises: bool | None = None,
) -> SweepContext:
    """Load checkpoint and data, and compute saliencies or read cached ones; an elastic model needs none.

    Args:
        report: Called with a line about each slow step.
        with_policy: Whether to load the policy network even if the search space does not need it.
        criterion: Saliency criterion; by default that of the search.
        scorer: See `cached_scores`.
        quantises: Whether recipes are quantised to INT8; by default if the search space has INT8.

    Raises:
        UserError: If checkpoint, data set and number of classes do not fit together.
    """
    if quantises is None:
        quantises = "int8" in config.space.precision
    path = checkpoints.locate(config.model.checkpoint)
    model = checkpoints.load(path, config.model.shape)
    fingerprint = checkpoints.fingerprint(path)
    with_policy = with_policy or METHODS[config.space.merge].needs_policy
    policy_weights, policy_checkpoint = _policy(config, model.shape) if with_policy else (None, "")

    def on_variant(done: int, total: int) -> None:
        if done == 1 or done % 20 == 0:
            report(f"corrupting evaluation images, variant {done} of {total} (kept in {cache_folder()})")

    evalset = prepare(config.data, config.evaluation, on_variant)
    classes, count = model.shape.classes, len(evalset.classes)
    if classes != count:
        raise UserError(f"the model has {classes} classes, {config.data.dataset} has {count}")
    check_stages(evalset, config.evaluation)
    if warning := absent_classes(evalset.labels.views(), evalset.classes, config.data.eval_split):
        report(warning)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    scores = None
    if criterion is not None or config.recovery.mode != "elastic":  # an elastic model's units are sorted
        inputs = f"{fingerprint}-{evalset.fingerprint}"
        scores = cached_scores(model, config, criterion or config.search.criterion, inputs, report, scorer)
    calibrates = quantises or config.recovery.mode == "reconstruct"
    root = None if config.data.root is None else config.data.root.resolve()  # workers run in other folders
    return SweepContext(
        config=config.changed("data", root=root),
        shape=model.shape,
        checkpoint=fingerprint,
        weights=weights,
        scores=None if scores is None else {name: score.numpy() for name, score in scores.items()},
        evalset=replace(
            evalset,
            images=_in_memory(evalset.images),
            labels=_in_memory(evalset.labels),
            originals=evalset.originals and _in_memory(evalset.originals),
        ),
        policy_weights=policy_weights,
        policy_checkpoint=policy_checkpoint,
        elastic=_elastic(config, model.shape),
        calibration=calibration_crops(model.shape, config)[0] if calibrates else None,
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
    for corner in space.corners:
        if problem := trained.outside(space.recipe(corner)):
            raise UserError(f"space: exceeds the space {path} was trained over: {problem}")
    return trained


def _elastic(config: SweepConfig, shape: ModelShape) -> Elastic | None:
    if (space := trained_space(config, shape)) is None:
        return None
    assert config.model.elastic is not None
    path = checkpoints.locate(config.model.elastic, "model.elastic")
    weights = {name: tensor.numpy() for name, tensor in checkpoints.load(path, shape).state_dict().items()}
    return Elastic(weights, space, checkpoints.fingerprint(path))


def check_same(rows: Sequence[Row], context: SweepContext, folder: AnyPath) -> None:
    """Check that rows were measured with this checkpoint and these images, as files of the same name may change.

    Raises:
        UserError: If they were measured with others.
    """
    for field, now in {"checkpoint": context.fingerprint, "evalset": context.evalset.fingerprint}.items():
        for before in {getattr(row, field) for row in rows} - {now}:
            change = f"rows were measured with {field} {before}, now {now}"
            raise UserError(f"results folder {folder}: {change}; choose another --name")


def _policy(config: SweepConfig, shape: ModelShape) -> tuple[dict[str, np.ndarray], str]:
    """Return the weights of the policy network and the fingerprint of its file."""
    if config.policy.checkpoint is None:
        raise UserError("field 'policy.checkpoint' is missing: CTS needs a policy network (raycomp train --policy)")
    path = checkpoints.locate(config.policy.checkpoint, "policy.checkpoint")
    policy = checkpoints.load_policy(path, shape)
    if policy.kind != config.policy.kind:
        raise UserError(f"{path}: holds a policy of kind {policy.kind}, but policy.kind is {config.policy.kind}")
    return {name: tensor.numpy() for name, tensor in policy.state_dict().items()}, checkpoints.fingerprint(path)


def _in_memory(stack: Stack) -> Stack:
    return Stack(np.array(stack.pixels), stack.shapes)
