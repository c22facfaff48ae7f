# SPDX-License-Identifier: Apache-2.0
"""Search the Pareto front of prune-then-merge recipes of a model within a budget of GFLOPs or time.

    python jobs/pareto_search.py --space search_spaces/streetscenes_vit_micro.yaml --budget 60% --trials 60
    ray job submit -- python jobs/pareto_search.py

Ctrl-C leaves a usable result; the same command resumes. `raycomp search` does the same.
"""

from raycomp.cli import guarded
from raycomp.commands.search import search_command as main

if __name__ == "__main__":
    guarded(main)
