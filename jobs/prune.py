# SPDX-License-Identifier: Apache-2.0
"""Prune the dense model of a search space by NViT, to a share of its GFLOPs or of its latency on this device.

    python jobs/prune.py --space search_spaces/streetscenes_vit_micro.yaml --gflops 60% --out pruned.safetensors
    python jobs/prune.py --space search_spaces/streetscenes_vit_micro.yaml --latency 60% --out pruned.safetensors

The recipe (.yaml), for `raycomp explain`, is written beside the model, which is not fine-tuned afterwards.
`raycomp prune` does the same.
"""

from raycomp.cli import guarded
from raycomp.commands.prune import prune_command as main

if __name__ == "__main__":
    guarded(main)
