# SPDX-License-Identifier: Apache-2.0
"""Importance of a space's dimensions for accuracy, by Optuna's fANOVA over the trials of a sweep."""

import warnings

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from raycomp import objectives
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import completed
from raycomp.results.row import Row

_MIN_TRIALS = 20  # complete trials needed for meaningful importances
_KINDS = {"heads": "heads", "qk": "qk", "v": "v", "mlp": "mlp", "ratios": "merge"}


def importance(sweep: SweepView) -> dict[str, dict[str, float]]:
    """Return the share of variance of each measured objective by dimension (`embed`, `mlp_3`).

    Objectives that do not vary are left out; the result is empty for few trials.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
    """
    rows = completed(sweep.trials, "search")
    found = [_params(row) for row in rows]
    names = list(dict.fromkeys(name for one in found for name in one))
    params = [{name: one.get(name, 0.0) for name in names} for one in found]
    varied = [name for name in names if len({one[name] for one in params}) > 1]
    if len(rows) < _MIN_TRIALS or not varied:
        return {}
    ranges = {name: _range([one[name] for one in params]) for name in varied}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shares = {}
    for objective in objectives.measured():
        values = [objective.value(row) for row in rows]
        if len(set(values)) == 1:  # fANOVA fails without variance
            continue
        study = optuna.create_study(direction=objective.direction)
        for value, one in zip(values, params, strict=True):
            chosen = {name: one[name] for name in varied}
            study.add_trial(create_trial(params=chosen, distributions=ranges, value=value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            shares[objective.title] = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return shares


def _params(row: Row) -> dict[str, float]:
    params: dict[str, float] = {"embed": row.embed, "precision": int(row.precision == "int8")}
    for column, kind in _KINDS.items():
        params |= {f"{kind}_{block}": value for block, value in enumerate(getattr(row, column))}
    return params | row.recipe.further_ratios


def _range(values: list[float]) -> BaseDistribution:
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(min(values)), int(max(values)))
    return FloatDistribution(min(values), max(values))
