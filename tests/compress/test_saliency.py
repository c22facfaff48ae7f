"""Saliency over batches: precision, and going on after an interruption."""

import pytest
import torch

from raycomp.compress import saliency as saliencies
from tests.conftest import seeded_images


def batches(shape, count: int, stop_before: int | None = None):
    for seed in range(count):
        if seed == stop_before:
            raise InterruptedError
        labels = torch.randint(0, shape.classes, (2, *shape.image), generator=torch.Generator().manual_seed(seed))
        yield seeded_images(shape, seed=seed), labels


def test_an_interrupted_computation_goes_on_where_it_was(model, shape, tmp_path):
    state = tmp_path / "part.safetensors"
    whole = saliencies.compute(model, batches(shape, 5))
    with pytest.raises(InterruptedError):
        saliencies.compute(model, batches(shape, 5, stop_before=3), state=state)
    assert state.is_file()
    resumed = saliencies.compute(model, batches(shape, 5), state=state)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(whole[name], score) for name, score in resumed.items())


def test_bfloat16_scores_rank_units_like_float32(model, shape):
    full, half = (saliencies.compute(model, batches(shape, 4), dtype) for dtype in (torch.float32, torch.bfloat16))
    for name in ("embed", "block.0.mlp", "block.2.mlp"):
        best = set(full[name].topk(len(full[name]) // 2).indices.tolist())
        again = set(half[name].topk(len(half[name]) // 2).indices.tolist())
        assert len(best & again) >= 0.8 * len(best)
