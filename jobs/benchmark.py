# SPDX-License-Identifier: Apache-2.0
"""Compare the methods of the paper at matched GFLOPs, and write its tables and figures.

    python jobs/benchmark.py --space search_spaces/streetscenes_vit_micro.yaml
    python jobs/benchmark.py --space search_spaces/streetscenes_vit_micro.yaml --recovery 300 --seeds 0,1,2

The same command resumes an interrupted comparison; further seeds, methods or speedups extend it. `raycomp benchmark`
does the same.
"""

from raycomp.cli import guarded
from raycomp.commands.benchmark import benchmark_command as main

if __name__ == "__main__":
    guarded(main)
