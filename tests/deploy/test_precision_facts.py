# SPDX-License-Identifier: Apache-2.0
"""A precision is recommended only if it saves time and keeps accuracy."""

import pytest

from raycomp.deploy.precision_facts import Precision, PrecisionFigures, recommendation
from raycomp.report.precision_table import precision_table


def figures(clean=0.0, corrupted=0.0, at_1=1.2, at_16=1.3) -> PrecisionFigures:
    return PrecisionFigures(
        clean_miou=0.68 + clean / 100,
        corrupted_miou=0.48 + corrupted / 100,
        clean_change=clean,
        corrupted_change=corrupted,
        images=1408,
        latency_ms={1: 6 / at_1, 16: 80 / at_16},
        speedup={1: at_1, 16: at_16},
        setting="a CPU",
    )


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        (
            figures(-0.1, 0.04),
            "recommended: 1.20x the speed of fp32 at batch 1, 1.30x at batch 16; mIoU changes by -0.10 / +0.04 points",
        ),
        (figures(-0.5, -0.5), "recommended: 1.20x"),
        (figures(-0.51), "not recommended: loses 0.51 points of clean mIoU"),
        (figures(0.3, -0.7), "not recommended: loses 0.70 points of corrupted mIoU"),
        (figures(-2, -1), "not recommended: loses 2.00 points of clean mIoU and 1.00 points of corrupted mIoU"),
        (
            figures(at_1=0.9, at_16=1.01),
            "not recommended: gains no time: 0.90x the speed of fp32 at batch 1, 1.01x at batch 16",
        ),
        (figures(-1, at_1=1, at_16=1), "not recommended: loses 1.00 points of clean mIoU; gains no time: 1.00x"),
        (figures(at_1=0.99), "recommended, for batches of 16 only: 0.99x the speed of fp32 at batch 1, 1.30x at"),
    ],
)
def test_a_precision_that_loses_accuracy_or_gains_no_time_is_not_recommended(measured, wanted):
    assert recommendation("int8", measured).startswith(f"int8: {wanted}")


def test_the_table_has_a_line_of_advice_for_each_precision_but_float32():
    found: dict[Precision, PrecisionFigures] = {
        "fp32": figures(at_1=1, at_16=1),
        "fp16": figures(at_1=0.9, at_16=0.9),
        "int8": figures(-0.2),
    }
    table = precision_table("a1", found, {"fp32": 5_080_000, "fp16": 2_800_000, "int8": 1_700_000})
    assert [cells for cells, _ in table.rows][2] == (
        "int8", "67.80", "48.00", "-0.20", "+0.00", "5.00", "1.20x", "61.54", "1.30x", "1.70",
    )  # fmt: skip
    assert [line.split(":")[:2] for line in table.caption.splitlines()] == [
        ["fp16", " not recommended"],
        ["int8", " recommended"],
    ]
