"""Which dimensions of a space decide accuracy, by Optuna's fANOVA over the trials of a sweep."""

import warnings

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from raycomp.report.found import Found
from raycomp.results.row import Row
from raycomp.results.store import completed

_LEAST = 20  # complete trials before importances say anything
_OBJECTIVES = {"clean mIoU": "clean_miou", "corrupted mIoU": "corrupted_miou"}
_KINDS = {"heads": "heads", "qk": "qk", "v": "v", "mlp": "mlp", "ratios": "merge"}


def importance(found: Found) -> dict[str, dict[str, float]]:
    """For either accuracy that varies the share of its variance by dimension (`embed`, `mlp_3`); empty where trials
    are few.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
    """
    rows = completed(found.trials, "search")
    params = [_params(row) for row in rows]
    varied = [name for name in params[0] if len({one[name] for one in params}) > 1] if params else []
    if len(rows) < _LEAST or not varied:
        return {}
    ranges = {name: _range([one[name] for one in params]) for name in varied}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shares = {}
    for title, objective in _OBJECTIVES.items():
        if len({row[objective] for row in rows}) == 1:  # fANOVA fails where there is no variance to share
            continue
        study = optuna.create_study(direction="maximize")
        for row, one in zip(rows, params, strict=True):
            own = {name: one[name] for name in varied}
            study.add_trial(create_trial(params=own, distributions=ranges, value=row[objective]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            shares[title] = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return shares


def _params(row: Row) -> dict[str, float]:
    found = {"embed": row["embed"]}
    for column, kind in _KINDS.items():
        found |= {f"{kind}_{block}": value for block, value in enumerate(row[column])}
    return found


def _range(values: list[float]) -> BaseDistribution:
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(min(values)), int(max(values)))
    return FloatDistribution(min(values), max(values))
