# SPDX-License-Identifier: Apache-2.0
"""Models that merge answer with the kernels as without; `test_kernels` runs this file."""

from copy import deepcopy

import pytest
import torch

from raycomp import kernels
from raycomp.compress.apply import compress
from raycomp.kernels import attention
from raycomp.kernels.attention import attend
from raycomp.merging import Algm, Merge, ToMe, WindowsToMe, tokens
from raycomp.merging.tokens import match
from raycomp.recipe import dense
from tests.conftest import TINY, seeded_images
from tests.kernels.conftest import DEVICE


@pytest.mark.parametrize(
    "merge",
    [
        ToMe(ratios=(0.3, 0.2, 0.1)),
        ToMe(ratios=(0.5, 0.0, 0.4), metric="keys"),
        ToMe(ratios=(0.3, 0.2, 0.1), metric="near_keys"),
        Algm(blocks=(1, 2), windows=0.25, pairs=0.2),
        Algm(blocks=(1, 2), threshold=0.1),
        WindowsToMe(windows=0.5, ratios=(0.3, 0.2, 0.0)),
        WindowsToMe(block=2, windows=0.5, ratios=(0.0, 0.3, 0.2), metric="near_keys"),
    ],
)
def test_a_merging_model_answers_the_same(merge: Merge, model, saliency, monkeypatch):
    recipe = dense(TINY).model_copy(update={"merge": merge})
    made = compress(deepcopy(model), recipe, saliency).to(DEVICE)  # not the weights that other tests share
    images = seeded_images(TINY).to(DEVICE)
    with torch.inference_mode():
        monkeypatch.setattr(kernels, "usable", lambda *_: False)
        features, tokens = made.encoder(images)
        monkeypatch.setattr(kernels, "usable", lambda *_: True)
        found, kept = made.encoder(images)
    assert torch.equal(kept.source, tokens.source)
    assert torch.equal(kept.size, tokens.size)
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("merge", [None, ToMe(ratios=(0.3, 0.2, 0.1))])
def test_attention_in_bfloat16_is_as_close_to_float32_as_torch(merge: Merge | None, model, saliency, monkeypatch):
    """Who merges is taken from float32: rounding decides between pairs that are nearly as similar."""
    made = compress(deepcopy(model), dense(TINY).model_copy(update={"merge": merge}), saliency)
    images = seeded_images(TINY)
    pairs: list[torch.Tensor] = []

    def keep(*arguments) -> torch.Tensor:
        pairs.append(match(*arguments))
        return pairs[-1]

    monkeypatch.setattr(tokens, "match", keep)
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    with torch.inference_mode():
        exact = made.patch_scores(images)
        made, images = made.to(DEVICE, torch.bfloat16), images.to(DEVICE, torch.bfloat16)
        errors, launched = [], []
        for fused in (False, True):
            again = iter(pairs)
            monkeypatch.setattr(tokens, "match", lambda *_, again=again: next(again).to(DEVICE))
            monkeypatch.setattr(kernels, "usable", lambda *_, fused=fused: fused)
            if fused:
                monkeypatch.setattr(attention, "attend", lambda *given: launched.append(given[3]) or attend(*given))
            errors.append((made.patch_scores(images).float().cpu() - exact).abs().mean().item())
    biased = [log_size is not None for log_size in launched]
    assert biased == [False, merge is not None, merge is not None, False]  # three blocks and one of the decoder
    assert 0 < errors[1] < 1.5 * errors[0] < 0.1
