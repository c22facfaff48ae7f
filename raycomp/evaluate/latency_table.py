# SPDX-License-Identifier: Apache-2.0
"""Predict a model's latency on a device from its recipe: a table of what each kind of work costs there.

NViT's lookup table (REFERENCE 7) times layers one by one. Here costs are fitted to complete models, in which layers
meet the caches and the fusions that a deployed model meets; `raycomp.deploy.latency_fit` times them. Reading a table
needs no torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from raycomp.errors import UserError
from raycomp.evaluate.latency_error import table_in_words
from raycomp.evaluate.work import KINDS, work
from raycomp.files import written
from raycomp.merging import METHODS, MergeMethod
from raycomp.recipe import Recipe
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape, Size
from raycomp.storage import AnyPath


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds that each kind of work takes for a batch, by precision."""

    shape: ModelShape
    image: Size
    method: str
    """Merge method of the timed models; empty if none merged."""
    costs: Mapping[str, Mapping[str, float]]
    """By precision, and by kind: milliseconds per unit of work on each image of the batch; see `KINDS`."""
    device: str
    """Device of the measurement: cpu, or the GPU's name; see `device_name`."""
    setting: str
    """Device, engine, batch, image size and threads of the measurement."""
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By precision: relative errors for the timed models, each predicted by a fit to the others."""

    @property
    def about(self) -> str:
        """The setting, and the errors."""
        return table_in_words(self.setting, self.errors)

    def latency_ms(self, recipe: Recipe) -> float:
        """Predict the time of one forward pass of the table's batch through a recipe's model.

        Raises:
            ValueError: if the recipe merges in a way that no timed model does, or none was timed in its precision.
        """
        if recipe.precision not in self.costs:
            raise ValueError(f"no latencies in {recipe.precision}")
        if recipe.merge is not None:
            expressed = None if self._method is None else self._method.expressed(recipe.merge)
            if expressed is None:
                raise ValueError(f"no latencies for merging by {recipe.merge.method}")
        counted = np.array([list(work(self.shape, recipe, self.image).values())])
        return float(self.of_work(counted, recipe.precision)[0])

    def of_work(self, counted: np.ndarray, precision: str) -> np.ndarray:
        """Return the milliseconds of models (C,) in a precision, from their work (C, kinds) in the order of `KINDS`."""
        costs = self.costs[precision]
        return counted @ np.array([costs[kind] for kind in KINDS])

    @cached_property
    def _method(self) -> MergeMethod | None:
        return METHODS[self.method].standard(self.shape, PolicyConfig().kind) if self.method else None

    def save(self, path: AnyPath) -> None:
        """Write the table as JSON, atomically."""
        stored = asdict(self) | {"shape": self.shape.model_dump(mode="json")}
        with written(path) as temporary:
            temporary.write_text(json.dumps(stored))

    @classmethod
    def load(cls, path: AnyPath) -> "LatencyTable":
        """Read a table.

        Raises:
            UserError: if the file is not a table, or one of an older release.
        """
        try:
            stored = json.loads(path.read_text())
            if "parts" in stored:
                raise UserError(f"{path}: a latency table of an older release; delete it, and times are measured anew")
            costs = {name: {kind: float(each[kind]) for kind in KINDS} for name, each in stored["costs"].items()}
            errors = {name: tuple(map(float, each)) for name, each in stored["errors"].items()}
            shape, image = ModelShape.model_validate(stored["shape"]), tuple(stored["image"])
            method, device, setting = (str(stored[name]) for name in ("method", "device", "setting"))
            return cls(shape, image, method, costs, device, setting, errors)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a latency table ({type(error).__name__}); delete it") from None
