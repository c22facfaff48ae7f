# SPDX-License-Identifier: Apache-2.0
"""Sweeps in a notebook: run one, and read its rows as pandas frames."""

from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

from raycomp.errors import UserError, nearest
from raycomp.results.row import Row, table_of
from raycomp.results.store import Store, sweep_folder

if TYPE_CHECKING:
    import pandas as pd

    from raycomp.recipe import Recipe
    from raycomp.report.sweep_view import SweepView

_FIRST = (
    "stage", "label", "family", "gflops", "gflops_share", "clean_miou", "corrupted_miou", "params", "embed", "status",
)  # fmt: skip
_LEFT_OUT = "recipe_id", "recipe_json", "per_image"


class Sweep:
    """A sweep, by name: `Sweep("half").front()`. Its rows are read once; `reload` reads them again."""

    def __init__(self, name: str, results: str = "results") -> None:
        """Open the sweep.

        Args:
            results: Folder of the sweeps, or a URI such as s3://bucket/results.

        Raises:
            UserError: If there is no such sweep.
        """
        self.name, self._store = name, Store(sweep_folder(results, name))
        self.config = self._store.config()
        """Its settings."""

    @classmethod
    def search(cls, space: str = "streetscenes_vit_micro", **options: Any) -> "Sweep":
        """Run `raycomp search`, or resume it, and return the sweep when it has ended.

        Args:
            space: File of a search space, or the name of a shipped one.
            options: Options of `raycomp search` by name: `budget="40%"`, `trials=200`, `name="half"`, `gpus=0.5`.

        Raises:
            UserError: For a wrong option, or what `raycomp search` reports.
            KeyboardInterrupt: If it was interrupted or stopped; the same call resumes it.
        """
        from raycomp import config as configs
        from raycomp.commands.search import search_command
        from raycomp.shipped import space_file

        path, known = space_file(space), list(signature(search_command).parameters)[1:]
        if wrong := next((name for name in options if name not in known), None):
            raise UserError(f"option {wrong}: {nearest(wrong, known)}")
        try:
            search_command(path, **options)
        except SystemExit:
            raise KeyboardInterrupt from None
        return cls(options.get("name") or configs.load(path).name, options.get("results", "results"))

    @cached_property
    def view(self) -> "SweepView":
        """Rows and queries, as the reports have them."""
        from raycomp.report.sweep_view import SweepView

        return SweepView.read(self._store)

    def reload(self) -> "Sweep":
        """Read the rows again, of a sweep that runs; return the sweep itself."""
        vars(self).pop("view", None)
        return self

    def front(self) -> "pd.DataFrame":
        """Return the front, cheapest first: a line for each recipe, with the losses against dense, in [0, 1]."""
        frame, dense = _frame(self.view.front), self.view.dense
        if dense is not None:
            for position, name in enumerate(("clean", "corrupted")):
                lost = getattr(dense, f"{name}_miou") - frame[f"{name}_miou"]
                frame.insert(frame.columns.get_loc("corrupted_miou") + 1 + position, f"{name}_loss", lost)
        return frame

    def trials(self) -> "pd.DataFrame":
        """Return all rows in order, of every stage, failed ones too."""
        return _frame(self.view.rows)

    def recipe(self, recipe_id: str) -> "Recipe":
        """Return the recipe whose id starts with these characters.

        Raises:
            KeyError: If none or several recipes of the sweep do.
        """
        found = {row.recipe_id: row for row in self.view.rows if row.recipe_id.startswith(recipe_id)}
        if len(found) != 1:
            raise KeyError(f"{recipe_id}: {len(found)} recipes of {self.name} start so")
        return next(iter(found.values())).recipe


def _frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """Return rows as a frame by recipe id, the most read columns first."""
    frame = table_of(rows).to_pandas().set_index("recipe_id", drop=False)
    frame = frame.drop(columns=list(_LEFT_OUT))
    return frame[[*_FIRST, *(name for name in frame.columns if name not in _FIRST)]]
