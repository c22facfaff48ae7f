"""The Ray Tune actor that runs trials: it keeps the model and the data, and only swaps recipes."""

from typing import Any

from ray import tune

from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.results.store import Store
from raycomp.search.base import Base
from raycomp.search.cluster import prepare_worker
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.storage import AnyPath


class Trial(tune.Trainable):
    """Measures one recipe a step and writes its row; Tune reuses the actor for the next."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], base: Base, samples: Samples | None, folder: AnyPath, commit: str
    ) -> None:
        self._base, self._samples, self._store, self._commit = base, samples, Store(folder), commit
        self._device = prepare_worker()
        self._proposal = Proposal.from_config(config)

    def step(self) -> dict[str, Any]:
        folder = self._store.folder
        row = run_trial(self._base, self._samples, self._proposal, folder, self._device, self._commit)
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
