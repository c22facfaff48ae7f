# SPDX-License-Identifier: Apache-2.0
"""Corruption robustness metrics from the mIoU of every (type, severity).

Paper, section 4 (mIoU_noise); Hendrycks & Dietterich, ICLR 2019 (mPC, rPC); Kamann & Rother,
"Benchmarking the Robustness of Semantic Segmentation Models", CVPR 2020 (CD, rCD). All values are
fractions in [0, 1], not percent. With all severities measured, mPC equals mIoU_noise.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Robustness:
    """Summary of an mIoU table (types, severities); NaN marks unmeasured variants."""

    mpc: float
    """Mean performance under corruption: the mean over all measured variants (mIoU_noise)."""
    rpc: float
    """mPC relative to clean mIoU."""
    per_type: np.ndarray
    per_severity: np.ndarray


def summary(table: np.ndarray, clean: float) -> Robustness:
    """Summarise an mIoU table (types, severities) relative to the clean mIoU."""
    mpc = float(np.nanmean(table))
    return Robustness(
        mpc=mpc,
        rpc=mpc / clean if clean > 0 else 0.0,
        per_type=measured_mean(table, axis=1),
        per_severity=measured_mean(table, axis=0),
    )


def corruption_degradation(table: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the CD of each type: the sum over severities of (1 - mIoU), relative to a reference model.

    NaN if nothing was measured, or if the reference makes no errors.
    """
    return _ratio(np.nansum(1 - table, axis=1), np.nansum(1 - reference, axis=1))


def relative_corruption_degradation(
    table: np.ndarray, clean: float, reference: np.ndarray, reference_clean: float
) -> np.ndarray:
    """Return the rCD of each type: the sum of (D - D_clean) over severities, relative to a reference model.

    D is 1 - mIoU. NaN if the reference does not degrade.
    """
    worse = np.nansum(clean - table, axis=1)
    reference_worse = np.nansum(reference_clean - reference, axis=1)
    return _ratio(worse, reference_worse)


def known_mean(values: np.ndarray) -> float | None:
    """Return the mean of the values that are not NaN; None if there are none."""
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else None


def _ratio(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.divide(values, reference, out=np.full(len(values), np.nan), where=reference != 0)


def measured_mean(table: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean along an axis, ignoring NaN; NaN if nothing was measured."""
    count = np.isfinite(table).sum(axis)
    return np.divide(np.nansum(table, axis=axis), count, out=np.full(count.shape, np.nan), where=count > 0)
