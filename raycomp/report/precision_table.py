# SPDX-License-Identifier: Apache-2.0
"""Table of the precisions of an exported model: accuracy, time and size beside float32."""

from collections.abc import Mapping

from raycomp.deploy.precision_facts import Precision, PrecisionFigures, recommendation
from raycomp.report.fitted import Column, FittedTable


def precision_table(
    recipe_id: str, figures: Mapping[Precision, PrecisionFigures], sizes: Mapping[Precision, int]
) -> FittedTable:
    """Return a line per precision; a caption says which to deploy.

    Args:
        sizes: bytes of the files.
    """
    one = next(iter(figures.values()))
    accuracies = Column("clean"), Column("corrupted", under="clean")
    changes = Column("clean change"), Column("corrupted change", under="clean change")
    columns = [Column("precision", text=True), *accuracies, *changes]
    for batch in one.latency_ms:
        columns += [Column(f"ms at batch {batch}"), Column(f"speed-up at {batch}", under=f"ms at batch {batch}")]
    advice = [recommendation(name, found) for name, found in figures.items() if name != "fp32"]
    title = f"Precisions of {recipe_id}: mIoU in %, changes in points, on {one.images} images; times of {one.setting}"
    table = FittedTable(title, [*columns, Column("MB")], "\n".join(advice))
    for name, found in figures.items():
        times = [f"{ms:.2f}" for ms in found.latency_ms.values()]
        speedups = [f"{speedup:.2f}x" for speedup in found.speedup.values()]
        table.add_row(
            name, f"{100 * found.clean_miou:.2f}", f"{100 * found.corrupted_miou:.2f}", f"{found.clean_change:+.2f}",
            f"{found.corrupted_change:+.2f}", *(cell for pair in zip(times, speedups, strict=True) for cell in pair),
            f"{sizes[name] / 1e6:.2f}",
        )  # fmt: skip
    return table
