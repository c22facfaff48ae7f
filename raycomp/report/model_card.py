# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported recipe: its purpose, accuracy, cost, origin and licence.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from raycomp import footprint, objectives
from raycomp.config import SweepConfig
from raycomp.data.corruptions import SEVERITIES, TYPES
from raycomp.data.evalset import CLEAN
from raycomp.deploy.bundle import OnnxModel
from raycomp.deploy.model import ModelCard
from raycomp.deploy.precision_facts import PrecisionFigures, recommendation
from raycomp.evaluate.per_image import PerImage
from raycomp.flops import gflops
from raycomp.merging import METHODS
from raycomp.models.checkpoints import PACKAGE_PREFIX
from raycomp.recipe import Recipe, dense
from raycomp.report.confidence import confidence
from raycomp.report.figures import Figure, moment
from raycomp.results.query import dense_row, deployed_row, refined_rows
from raycomp.results.row import Row
from raycomp.shape import ModelShape

Cells = tuple[str, ...]
"""One line of a table."""
_LIBRARIES = ("raycomp", "torch")
_STAGES = {
    "full": "on the full evaluation set",
    "refined": "on the full evaluation set",
    "search": "in the search stage, on fewer images than the full evaluation set",
    "probe": "on the first images of the search stage alone",
}


@dataclass(frozen=True)
class Deployed:
    """An exported recipe, and what its sweep knows of it."""

    recipe: Recipe
    config: SweepConfig
    """Settings of the sweep."""
    rows: Sequence[Row]
    """All rows of the sweep."""
    seed: int | None
    """Seed of the exported model's fine-tuning; None if it was not refined."""
    models: Sequence[OnnxModel]
    """The ONNX files, in one or several precisions."""

    @property
    def facts(self) -> ModelCard:
        """The card in the files of the model."""
        return self.models[0].card

    @property
    def shape(self) -> ModelShape:
        """Shape of the dense model."""
        return self.models[0].shape

    @cached_property
    def row(self) -> Row | None:
        """The measurement of this model, as `deployed_row`."""
        return deployed_row(self.rows, self.recipe.id, self.seed)

    @cached_property
    def dense(self) -> Row | None:
        """The measurement of the dense model on the same images."""
        stage = "" if self.row is None else self.row.stage
        return dense_row(self.rows, "full" if stage == "refined" else stage)

    @property
    def stage(self) -> str:
        """On which images accuracy was measured, in words."""
        return "" if self.row is None else _STAGES[self.row.stage]

    @property
    def images(self) -> str:
        """Numbers of images that accuracy was measured on; empty for rows without counts per image."""
        if self.row is None or self.row.per_image is None:
            return ""
        variants = PerImage.unpacked(self.row.per_image).variants
        clean = int((variants == CLEAN).sum())
        return f"{clean} clean and {len(variants) - clean} corrupted images"

    @property
    def chosen_here(self) -> bool:
        """Whether the search of the sweep saw images that accuracy was measured on."""
        seen = {row.evalset for row in self.rows if row.stage in ("probe", "search")}
        return self.row is not None and self.row.evalset in seen

    @property
    def method(self) -> str:
        """How the model was compressed, in words; empty for the dense model."""
        pruned = "layers narrowed" if "prune" in self.recipe.family(self.shape) else ""
        merge = self.recipe.merge
        merged = "" if merge is None else f"similar tokens merged ({METHODS[merge.method].title})"
        quantised = "linear maps in INT8" if self.recipe.precision == "int8" else ""
        *parts, last = [part for part in (pruned, merged, quantised) if part] or [""]
        return f"{', '.join(parts)} and {last}" if parts else last

    @property
    def share(self) -> float:
        """GFLOPs relative to the dense model."""
        return self._gflops(self.recipe) / self._gflops(dense(self.shape))

    @property
    def accuracy(self) -> list[Cells]:
        """Lines of the measured objectives: name, value with interval, that of the dense model, difference."""
        known = [row for row in (self.row, self.dense) if row is not None]
        halves = {row.identity: confidence([row]).get(row.recipe_id) for row in known}

        def cell(one: objectives.Objective, row: Row) -> str:
            half = None if (found := halves[row.identity]) is None else found.half_width(one.short)
            return one.text(one.value(row)) + ("" if half is None else f" ± {one.text(half)}")

        return [
            (one.title, *(cell(one, row) for row in known), *([_change(one, *known)] if len(known) > 1 else []))
            for one in objectives.measured()
        ]

    @property
    def seeds(self) -> str:
        """Mean and interval over all seeds of a refined model; empty for one seed."""
        rows = [row for row in refined_rows(self.rows) if row.recipe_id == self.recipe.id]
        if self.seed is None or len(rows) < 2:
            return ""
        figures = ((one, Figure.of([one.value(row) for row in rows])) for one in objectives.measured())
        return ", ".join(f"{one.title} {figure.text(one.factor)}" for one, figure in figures)

    @property
    def by_class(self) -> list[Cells]:
        """Lines of classes: index, name, IoU, that of the dense model, difference."""
        lines = self._compared(self.facts.classes, "class_iou", "does not occur")
        return [(str(index), *cells) for index, cells in enumerate(lines)]

    @property
    def by_type(self) -> list[Cells]:
        """Lines of corruption types: name, mIoU, that of the dense model, difference."""
        return self._compared([name.replace("_", " ") for name in TYPES], "corrupted_by_type")

    @property
    def by_severity(self) -> list[Cells]:
        """Lines of severities, as `by_type`."""
        return self._compared([f"severity {level}" for level in SEVERITIES], "corrupted_by_severity")

    @property
    def costs(self) -> list[Cells]:
        """Lines of costs: name, value, that of the dense model, share."""
        height, width = self.facts.window
        lines = list[Cells]()
        weights = "float32" if self.recipe.precision == "fp32" else "float32, linear maps in INT8"
        for name, of, form, unit in (
            (f"GFLOPs of one {width} x {height} window", self._gflops, "{:.4f}", 1.0),
            ("parameters, millions", lambda recipe: footprint.params(self.shape, recipe), "{:.3f}", 1e-6),
            (f"memory of one window in {weights}, MB, estimated", self._memory, "{:.2f}", 1e-6),
        ):
            mine, whole = of(self.recipe), of(dense(self.shape))
            lines.append((name, form.format(unit * mine), form.format(unit * whole), f"{mine / whole:.1%}"))
        return lines

    @property
    def files(self) -> list[Cells]:
        """Lines of ONNX files: name, precision, size; then, if measured, accuracy and speed against float32."""
        lines = list[Cells]()
        for one in self.models:
            found = one.precision.figures
            cells: list[str] = []
            if found is not None:
                cells = [f"{100 * found.clean_miou:.2f}", f"{100 * found.corrupted_miou:.2f}"]
                cells += [f"{speedup:.2f}x" for speedup in found.speedup.values()]
            lines.append((f"`{one.name}`", one.precision.precision, f"{one.size / 1e6:.2f}", *cells))
        return lines

    @property
    def figures(self) -> PrecisionFigures | None:
        """The figures of one of the precisions; None if they were not measured."""
        return next((one.precision.figures for one in self.models if one.precision.figures is not None), None)

    @property
    def advice(self) -> list[str]:
        """Which precisions are worth deploying, a line for each but float32 that was measured."""
        facts = (one.precision for one in self.models)
        return [recommendation(f.precision, f.figures) for f in facts if f.precision != "fp32" and f.figures]

    @property
    def origin(self) -> list[Cells]:
        """Lines of provenance: name and value; what a row tells only if there is one."""
        config, row = self.config, self.row
        lines = [
            ("recipe", f"`{self.recipe.id}`"),
            ("sweep", config.name),
            ("dense checkpoint", _file_name(config.model.checkpoint)),
            (
                "cut from the elastic model",
                _file_name(config.model.elastic or "" if config.recovery.mode == "elastic" else ""),
            ),
            ("data set", f"{config.data.dataset}, evaluated on its split {config.data.eval_split}"),
        ]
        if row is not None:
            versions = {name: text for name, text in json.loads(row.versions or "{}").items() if name in _LIBRARIES}
            lines += [
                ("checkpoint hashes", row.checkpoint),
                ("hash of the evaluation images", row.evalset),
                ("recovery of accuracy", row.recovery),
                ("fine-tuned by `raycomp refine`", row.operating_point or "" if self.seed is not None else ""),
                ("seed", str(row.seed)),
                ("measured", "" if row.started is None else moment(row.started)),
                ("measured with", ", ".join(f"{name} {text}" for name, text in versions.items())),
                ("measured on", f"{row.device}, {row.dtype}"),
                ("commit of raycomp", row.git_commit or ""),
            ]
        lines.append(("exported with", f"raycomp {version('raycomp')}"))
        return [line for line in lines if line[1]]

    @property
    def own(self) -> bool:
        """Whether weights and training images are those that raycomp ships or draws itself."""
        weights = [name for name in (self.config.model.checkpoint, self.config.model.elastic) if name]
        shipped = all(name.startswith(PACKAGE_PREFIX) for name in weights)
        return shipped and self.config.data.dataset == "streetscenes"

    def _gflops(self, recipe: Recipe) -> float:
        return gflops(self.shape, recipe, self.facts.window)

    def _memory(self, recipe: Recipe) -> float:
        return footprint.memory(self.shape, recipe, self.facts.window).total

    def _compared(self, names: Sequence[str], column: str, missing: str = "not measured") -> list[Cells]:
        """Return a line for each entry of a column of mIoUs, beside that of the dense model; empty if there is none."""
        rows = [row for row in (self.row, self.dense) if row is not None and getattr(row, column)]
        if self.row not in rows:
            return []
        return [
            (name, *(_percent(value, missing) for value in values), *([_points(*values)] if len(values) > 1 else []))
            for name, *values in zip(names, *(getattr(row, column) for row in rows), strict=True)
        ]


def model_card(deployed: Deployed) -> str:
    """Return the model card as Markdown."""
    loader = PackageLoader("raycomp.report")
    environment = Environment(  # noqa: S701  no HTML
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["line"] = lambda cells: " | ".join(cell.replace("|", r"\|") for cell in cells)
    return environment.get_template("model_card.md").render(
        model=deployed, row=deployed.row, measures_dense=deployed.dense is not None
    )


def _file_name(checkpoint: str) -> str:
    """Return the name of a checkpoint's file without the folder, which belongs to another machine."""
    return Path(checkpoint.removeprefix(PACKAGE_PREFIX)).name


def _change(one: objectives.Objective, row: Row, other: Row) -> str:
    return one.change(one.value(row) - one.value(other), 2)


def _percent(value: float, missing: str) -> str:
    return missing if math.isnan(value) else f"{100 * value:.1f}"


def _points(value: float, other: float) -> str:
    return "" if math.isnan(value - other) else f"{100 * (value - other):+.1f}"
