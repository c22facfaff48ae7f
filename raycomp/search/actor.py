"""The Ray Tune actor that runs trials: it keeps the model and the data, and only swaps recipes."""

from typing import Any

from ray import tune

from raycomp.cluster.connection import prepare_worker
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from raycomp.search.trial import DeviceLost, run_trial
from raycomp.storage import AnyPath


class Trial(tune.Trainable):
    """Measures one recipe a step and writes its row; Tune reuses the actor for the next."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], context: SweepContext, samples: Samples | None, folder: AnyPath, commit: str
    ) -> None:
        self._context, self._samples, self._store, self._commit = context, samples, Store(folder), commit
        self._problem = self._lost = ""
        try:
            self._device = prepare_worker()
        except UserError as error:  # told by the first step: what fails here, Tune tries again
            self._problem = str(error)
        self._proposal = Proposal.from_config(config)

    def step(self) -> dict[str, Any]:
        """Measure; the driver reads `problem`, for which no trial can run, and `lost`, for which this actor ends."""
        if self._lost:
            raise RuntimeError(self._lost)  # Tune ends the actor
        if self._problem:
            return {"done": True, "problem": self._problem}
        folder = self._store.folder
        try:
            row = run_trial(self._context, self._samples, self._proposal, folder, self._device, self._commit)
        except DeviceLost as lost:  # a result first, as what an actor raises does not reach the searcher
            self._lost = str(lost)
            return {"done": False, "lost": self._lost}
        try:
            self._store.write(row)
        except UserError as error:  # measuring it again would not help
            return {"done": True, "problem": str(error)}
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._proposal = Proposal.from_config(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial is one step, and its row is the result."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Nothing to load."""
