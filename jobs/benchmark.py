"""Compare the methods of the paper at matched GFLOPs: its tables and figures, from one command.

    python jobs/benchmark.py --space search_spaces/streetscenes_vit_micro.yaml
    python jobs/benchmark.py --space search_spaces/streetscenes_vit_micro.yaml --recovery 300 --seeds 0,1,2

An interrupted comparison goes on with the same command; more seeds, methods or speed-ups are added to it.
`raycomp benchmark` does the same.
"""

from raycomp.cli import guarded
from raycomp.commands.benchmark import benchmark_command as main

if __name__ == "__main__":
    guarded(main)
