# SPDX-License-Identifier: Apache-2.0
"""Losses against torch's own on logits, and against each other."""

import pytest
import torch
import torch.nn.functional as F

from raycomp.compress.apply import compress
from raycomp.data.samples import IGNORE
from raycomp.losses import cross_entropy, distilled, pixel_loss
from raycomp.merging import ToMe
from raycomp.recipe import dense
from tests.conftest import TINY, seeded_images, seeded_model

IMAGES = seeded_images(TINY)
LABELS = torch.randint(0, TINY.classes, (2, *TINY.image), generator=torch.Generator().manual_seed(3))
LABELS[:, :10] = IGNORE


def total(parts) -> float:
    return sum(part.item() for part in parts)


def test_a_batch_of_which_nothing_is_labelled_changes_nothing(model):
    student = seeded_model(TINY, seed=3)
    nothing = torch.full_like(LABELS, IGNORE)
    losses = {"pixels": pixel_loss, "taught": distilled(model, 0.0)}
    for name, loss in losses.items():
        student.zero_grad(set_to_none=True)
        value = sum(loss(student, IMAGES, nothing))
        value.backward()
        assert value == 0, name
        assert all((p.grad == 0).all() for p in student.parameters() if p.grad is not None), name
        assert student.encoder.pos_embed.grad is not None


@pytest.mark.parametrize("labelled", [1, 7, 2000, 2 * 48 * 64])
def test_the_mean_over_labelled_pixels_is_torch_s_to_the_bit(labelled):
    generator = torch.Generator().manual_seed(labelled)
    logits = torch.randn(2, 5, 48, 64, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.full((2 * 48 * 64,), IGNORE, dtype=torch.uint8)
    labels[torch.randperm(len(labels), generator=generator)[:labelled]] = 3
    labels = labels.view(2, 48, 64)
    values, slopes = [], []
    for mean in (cross_entropy, lambda x, y: F.cross_entropy(x, y.long(), ignore_index=IGNORE)):
        given = logits.clone().requires_grad_()
        value = mean(given, labels)
        (0.3 * value).backward()
        values.append(value)
        slopes.append(given.grad)
    assert torch.equal(*values)
    assert torch.equal(*slopes)


def test_a_teacher_that_agrees_adds_nothing(model):
    plain = total(pixel_loss(model, IMAGES, LABELS))
    assert plain == pytest.approx(F.cross_entropy(model(IMAGES), LABELS, ignore_index=IGNORE).item())
    assert total(distilled(model, 5.0)(model, IMAGES, LABELS)) == pytest.approx(plain, abs=1e-5)


def test_the_divergence_is_the_mean_over_patches_of_sum_p_log_p_over_q(model):
    student = seeded_model(TINY, seed=4)
    p, q = (m.patch_scores(IMAGES).double().softmax(1) for m in (model, student))
    expected = (p * (p / q).log()).sum(1).mean().item()
    parts = [total(distilled(model, weight)(student, IMAGES, LABELS)) for weight in (0.0, 2.0)]
    assert parts[1] - parts[0] == pytest.approx(2 * expected, rel=1e-4)


def test_nested_losses_are_the_mean_of_those_of_the_sliced_models(model):
    student = seeded_model(TINY, seed=4)
    narrow = dense(TINY).model_copy(update={"embed": 16, "merge": ToMe(ratios=(0.2, 0.1, 0.0))})
    recipes = [dense(TINY), narrow]
    parts = list(distilled(model, 1.0, lambda seed: recipes)(student, IMAGES, LABELS))
    alone = [total(distilled(model, 1.0)(compress(student, r, None), IMAGES, LABELS)) for r in recipes]
    assert [p.item() for p in parts] == pytest.approx([loss / 2 for loss in alone], rel=1e-5)
    assert all(p.requires_grad for p in parts)


def test_the_recipes_of_a_step_come_from_its_seed(model):
    seeds: list[int] = []

    def draw(seed):
        seeds.append(seed)
        return [dense(TINY)]

    for step in (1, 2, 1):
        torch.manual_seed(step)
        list(distilled(model, 1.0, draw)(model, IMAGES, LABELS))
    assert seeds[0] == seeds[2] != seeds[1]
