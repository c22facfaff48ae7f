# SPDX-License-Identifier: Apache-2.0
"""Train a dense model, an elastic model or CTS's policy network, and write checkpoint and card.

    python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out model.safetensors
    python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out elastic.safetensors --elastic
    python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out policy.safetensors --policy

The same command resumes an interrupted training. `raycomp train` does the same.
"""

from raycomp.cli import guarded
from raycomp.commands.train import train_command as main

if __name__ == "__main__":
    guarded(main)
