# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the front of a finished sweep with the dense model as teacher, and measure it on the full set.

    python jobs/refine.py --sweep streetscenes_vit_micro --steps 2000 --seeds 0,1,2
    ray job submit -- python jobs/refine.py --sweep ade20k_deit_base

Or measure it without training, as a new sweep, on held-out images, another data set, size or checkpoint:

    python jobs/refine.py --sweep streetscenes_vit_micro --split test
    python jobs/refine.py --sweep ade20k_deit_base --space OTHER.yaml

Ctrl-C loses at most the steps since the last saved state; the same command resumes. `raycomp refine` does the same.
"""

from raycomp.cli import guarded
from raycomp.commands.refine import refine_command as main

if __name__ == "__main__":
    guarded(main)
