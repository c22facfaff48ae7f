# SPDX-License-Identifier: Apache-2.0
"""Compressed models to export, and what their cards say."""

from copy import deepcopy

import numpy as np
import torch

from raycomp.compress.apply import compress
from raycomp.compress.saliency import Saliency
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.settings.model_and_data import DataConfig
from tests.conftest import TINY
from tests.helpers.recipes import random_recipe

CLASSES = tuple("abcde")
DATA = DataConfig(dataset="streetscenes", short_side=64, stride=32)


def compressed(model: Segmenter, saliency: Saliency, method: str, seed: int = 0) -> Segmenter:
    recipe = random_recipe(TINY, np.random.default_rng(seed), method)
    if method == "cts":
        recipe = recipe.model_copy(update={"merge": recipe.merge.model_copy(update={"policy": "small"})})
    torch.manual_seed(0)
    return deepcopy(compress(model, recipe, saliency, Policy("small", TINY.patch).eval()))
