# SPDX-License-Identifier: Apache-2.0
"""A small search: its space, its settings, and one worker that runs all of its proposals."""

from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.settings.space_and_search import SearchConfig, SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.trials import fake_row

SPACE = Space(TINY, SpaceConfig(embed=WidthRange(low=16), mlp=WidthRange(low=32, step=16)), TINY.image)
SEARCH = SearchConfig(budget=0.7, trials=30, baselines=(0.7, 0.5))


def drive(proposer: Proposer, stop_after: int | None = None) -> list[Proposal]:
    """Run proposals one at a time, as one worker would."""
    done: list[Proposal] = []
    while (proposal := proposer.next()) is not None and (stop_after is None or len(done) < stop_after):
        proposer.tell(fake_row(TINY, proposal))
        done.append(proposal)
    proposer.close()
    return done
