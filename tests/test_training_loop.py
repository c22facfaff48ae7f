# SPDX-License-Identifier: Apache-2.0
"""Training: repeatable, learns, and stops when the loss is no number."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raycomp.data.samples import IGNORE
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.evaluate.sharing import precision
from raycomp.evaluate.sliding import normalised
from raycomp.losses import policy_loss
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.recipe import dense
from raycomp.settings.training import AugmentConfig, TrainConfig
from raycomp.shape import Scale
from raycomp.training_loop import TrainingProgress, _follow, _optimizer, _rate, _Saved, train, without_padding
from tests.conftest import TINY, seeded_images, seeded_model

PLAIN = AugmentConfig(scale=(1.0, 1.0), photometric=False)
SHAPE = TINY.model_copy(update={"image": (64, 64), "classes": 11})
CONFIG = TrainConfig(
    steps=12,
    batch=4,
    optimizer="adamw",
    lr=3e-3,
    min_lr=0,
    warmup=2,
    drop_path=0.1,
    clip=1.0,
    ema=0.5,
    augment=AugmentConfig(),
)


def trained(config: TrainConfig = CONFIG) -> tuple[Segmenter, list[TrainingProgress]]:
    model = Segmenter(SHAPE, dense(SHAPE))
    model.regularise(config.drop_path, config.decoder_dropout)
    init_weights(model, torch.Generator().manual_seed(0))
    reports: list[TrainingProgress] = []
    return train(model, SHAPE, StreetScenes("train", 8), config, torch.device("cpu"), reports.append), reports


def test_the_loss_falls():
    _, reports = trained(CONFIG.model_copy(update={"steps": 80}))
    first, last = (sum(r.loss for r in part) / 5 for part in (reports[:5], reports[-5:]))
    assert last < 0.8 * first
    assert [r.step for r in reports] == list(range(1, 81))


def test_the_same_seed_trains_the_same_model_whatever_the_loader_processes():
    weights = [trained(CONFIG.model_copy(update={"workers": workers}))[0].state_dict() for workers in (0, 0, 2)]
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("crop", "size"), [(None, (64, 64)), ((32, 48), (32, 48)), ((64, 128), (64, 128))])
def test_a_training_sees_crops_of_the_size_that_its_settings_say(crop, size):
    seen = []

    def loss(model, images, labels):
        seen.append((tuple(images.shape[2:]), tuple(labels.shape[1:])))
        yield model.patch_scores(images).mean()

    config = CONFIG.model_copy(update={"steps": 2, "crop": crop})
    model = Segmenter(SHAPE, dense(SHAPE))
    train(model, SHAPE, StreetScenes("train", 4), config, torch.device("cpu"), lambda _: None, loss)
    assert seen == [(size, size)] * 2


class InterruptionError(Exception):
    pass


def test_an_interrupted_training_goes_on_to_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setattr("raycomp.training_loop._SAVE_EVERY", 5)
    whole, _ = trained()
    state, seen = tmp_path / "model.state", []

    def stop_at_seven(standing: TrainingProgress) -> None:
        seen.append(standing.step)
        if standing.step == 7:
            raise InterruptionError

    def start(report) -> Segmenter:
        model = Segmenter(SHAPE, dense(SHAPE))
        model.regularise(CONFIG.drop_path, CONFIG.decoder_dropout)
        init_weights(model, torch.Generator().manual_seed(0))
        return train(model, SHAPE, StreetScenes("train", 8), CONFIG, torch.device("cpu"), report, state=state)

    with pytest.raises(InterruptionError):
        start(stop_at_seven)
    assert state.is_file()
    times: list[float] = []
    resumed = start(lambda standing: (seen.append(standing.step), times.append(standing.seconds)))
    assert seen == [*range(1, 8), *range(5, 13)]  # it says where it goes on from
    assert times == sorted(times)
    assert times[0] > 0
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in resumed.state_dict().items())
    left: list[tuple[int, float]] = []
    again = start(lambda standing: left.append((standing.step, standing.seconds)))
    assert left == [(12, times[-1])]  # nothing is left to do
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in again.state_dict().items())


@pytest.mark.parametrize("ema", [0.5, None])
def test_another_training_can_start_from_a_state(tmp_path, ema):
    model = Segmenter(SHAPE, dense(SHAPE))
    init_weights(model, torch.Generator().manual_seed(0))
    config, state = CONFIG.model_copy(update={"ema": ema}), tmp_path / "model.state"
    kept = train(model, SHAPE, StreetScenes("train", 8), config, torch.device("cpu"), lambda at: None, state=state)
    again = checkpoints.load(state, SHAPE).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in kept.state_dict().items())
    torch.save({"step": 3}, state)
    with pytest.raises(UserError, match="not a training state"):
        checkpoints.load(state, SHAPE)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_diverges_stops_and_keeps_the_last_good_weights(tmp_path, monkeypatch, where):
    monkeypatch.setattr("raycomp.training_loop._SAVE_EVERY", 2)
    state, calls, before = tmp_path / "model.state", [], {}

    def loss(model, images, labels):
        calls.append(1)
        before.update({name: weight.clone() for name, weight in model.state_dict().items()})
        good = model(images).square().mean()
        bad = good * torch.nan if where == "loss" else good.detach() + (good - good.detach()).abs().sqrt()
        yield bad if len(calls) == 6 else good

    model = Segmenter(SHAPE, dense(SHAPE))
    init_weights(model, torch.Generator().manual_seed(0))
    figure = "loss is nan" if where == "loss" else "gradient norm is nan"
    with pytest.raises(UserError, match=rf"{figure} at step 6; .*model\.state keeps the weights of step 4"):
        train(model, SHAPE, StreetScenes("train", 8), CONFIG, torch.device("cpu"), lambda at: None, loss, state)
    weights = checkpoints.load(state, SHAPE).state_dict()
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())  # step 6 took none


def test_the_loss_that_is_told_is_the_sum_of_its_parts_up_to_what_is_no_number():
    def loss(model, images, labels):
        for factor in (1.0, torch.inf, -torch.inf):
            yield model(images).square().mean() * factor

    with pytest.raises(UserError, match="loss is inf at step 1;"):
        train(seeded_model(SHAPE), SHAPE, StreetScenes("train", 8), CONFIG, torch.device("cpu"), print, loss)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_the_counts_of_a_saved_optimiser_stay_on_the_cpu(tmp_path):
    """AdamW reads one for each parameter at every step; `meta` stands for a GPU, as none is at hand."""
    state, config = tmp_path / "model.state", CONFIG.model_copy(update={"steps": 2})
    train(
        seeded_model(SHAPE), SHAPE, StreetScenes("train", 8), config, torch.device("cpu"), lambda at: None, state=state
    )
    there = seeded_model(SHAPE).to("meta")
    optimizer, average = _optimizer(there, config), AveragedModel(there)
    saved = _Saved(state, torch.load(state)["settings"], model=there, optimizer=optimizer, average=average)
    assert saved.restore() == 2
    assert average.n_averaged.device.type == "cpu"
    assert len(optimizer.state) == len(list(there.parameters()))
    for held in optimizer.state.values():
        assert {name: tensor.device.type for name, tensor in held.items()} == {
            "step": "cpu",
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
        }
        assert held["step"] == 2


def test_the_state_of_another_training_is_refused(tmp_path):
    state = tmp_path / "model.state"
    torch.save({"settings": "other"}, state)
    model = Segmenter(SHAPE, dense(SHAPE))
    with pytest.raises(UserError, match="belongs to a training with other settings"):
        train(model, SHAPE, StreetScenes("train", 8), CONFIG, torch.device("cpu"), print, state=state)
    state.write_bytes(b"half a file")
    with pytest.raises(UserError, match="not a readable training state"):
        train(model, SHAPE, StreetScenes("train", 8), CONFIG, torch.device("cpu"), print, state=state)


def test_a_policy_learns_where_one_class_is():
    torch.manual_seed(0)
    samples = StreetScenes("train", 64)
    config = TrainConfig(steps=60, batch=8, optimizer="adamw", lr=3e-3, min_lr=0, augment=PLAIN)
    loss = partial(policy_loss, ignore_border=True)
    policy = train(Policy("small", 8), SHAPE, samples, config, torch.device("cpu"), lambda at: None, loss)
    held_out = [StreetScenes("val", 8)[i] for i in range(8)]
    batches = [
        (
            normalised(torch.from_numpy(image)[None], (0.5,) * 3, (0.5,) * 3, torch.float32),
            torch.from_numpy(label)[None],
        )
        for image, label in held_out
    ]
    everywhere, (best,) = precision(policy, batches, (0.5,), ignore_border=True)
    assert best > everywhere + 0.1


def test_a_loss_that_is_no_number_stops_and_says_what_may_help():
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+; a train\.lr below"):
        trained(CONFIG.model_copy(update={"lr": 1e30, "warmup": 0, "clip": None, "optimizer": "sgd", "steps": 30}))


def test_poly_schedule_of_the_paper():
    config = TrainConfig(steps=100, lr=1e-3, min_lr=1e-5)
    assert _rate(0, config) == pytest.approx(1e-3)
    assert _rate(50, config) == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.5**0.9)
    assert _rate(100, config) == pytest.approx(1e-5)
    warm = TrainConfig(steps=100, lr=1e-3, warmup=10)
    assert [_rate(s, warm) for s in (0, 4, 9)] == pytest.approx([1e-4, 5e-4, 1e-3])


def test_ignored_pixels_do_not_train():
    class Ignored:
        classes = tuple("abcdefghijk")
        fingerprint = ""

        def __len__(self):
            return 4

        def __getitem__(self, index):
            image, label = StreetScenes("train", 4)[index]
            return image, label * 0 + IGNORE

    model = Segmenter(SHAPE, dense(SHAPE))
    init_weights(model, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="no labelled pixel in 12 batches"):
        train(model, SHAPE, Ignored(), CONFIG, torch.device("cpu"), lambda progress: None)


def test_sgd_takes_the_steps_of_timm_s():
    """Segmenter trains by timm's `sgd`, whose momentum is Nesterov's."""
    from timm import optim  # torchvision is fit for it once raycomp is imported

    ours, theirs = seeded_model(SHAPE), seeded_model(SHAPE)
    config = CONFIG.model_copy(update={"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0})
    optimizers = (
        _optimizer(ours, config),
        optim.create_optimizer_v2(  # type: ignore[attr-defined]
            theirs, opt="sgd", lr=0.1, weight_decay=0.0, momentum=0.9
        ),
    )
    for seed in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(seeded_images(SHAPE, seed=seed)).square().mean().backward()
            optimizer.step()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], weight, rtol=0, atol=0)


def test_the_average_follows_as_torch_s_own():
    """Its parameters; the buffers of batch norm are the model's."""
    policy = Policy("small", 8)
    ours, theirs = AveragedModel(policy), AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    for step in range(3):
        with torch.no_grad():
            for tensor in policy.state_dict().values():
                tensor.add_(step + 1)
        _follow(ours, policy, 0.7)
        theirs.update_parameters(policy)
    assert ours.n_averaged == 3
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())


def test_padding_is_zero_after_normalising():
    images = torch.full((2, 3, 4, 6), 7.0)
    cleaned = without_padding(images, torch.tensor([[4, 6], [3, 2]]))
    assert torch.equal(cleaned[0], images[0])
    assert cleaned[1, :, :3, :2].eq(7).all()
    assert cleaned[1].sum() == 3 * 3 * 2 * 7


class Squares:
    """White pictures of 40 x 60 pixels, the left half of class 0."""

    classes, fingerprint = tuple("abcdefghijk"), "squares"

    def __len__(self):
        return 4

    def __getitem__(self, index):
        label = np.zeros((40, 60), np.uint8)
        label[:, 30:] = 1
        return np.full((40, 60, 3), 255, np.uint8), label


@pytest.mark.parametrize(("scale", "expected"), [(Scale(), (40, 60)), (Scale(20), (20, 30)), (Scale(40, 45), (30, 45))])
def test_what_a_model_is_trained_on_is_scaled_cropped_and_padded(scale, expected):
    seen = []

    def loss(model, images, labels):
        seen.append((images, labels))
        yield model(images).square().mean()

    config = CONFIG.model_copy(update={"steps": 1, "warmup": 0, "augment": PLAIN})
    train(seeded_model(SHAPE), SHAPE, Squares(), config, torch.device("cpu"), lambda at: None, loss, scale=scale)
    images, labels = seen[0]
    height, width = expected
    assert images.shape == (4, 3, 64, 64)
    assert images[:, :, :height, :width].eq(1).all()  # white, normalised
    assert images.sum() == 4 * 3 * height * width
    assert (labels != IGNORE).sum() == 4 * height * width


def test_a_training_that_goes_on_with_unlabelled_batches_is_not_refused(tmp_path, monkeypatch):
    """Labels that its first part has seen count: the rest of the batches, here without any, are no reason to stop."""
    config = CONFIG.model_copy(update={"steps": 4, "batch": 1, "warmup": 0, "augment": PLAIN, "ema": None})
    order = [int(np.random.default_rng([0, step]).choice(200, 1, replace=False)[0]) for step in range(4)]

    class FirstLabelled(Squares):
        def __len__(self):
            return 200

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, label if index == order[0] else np.full_like(label, IGNORE)

    def run(stop: int) -> None:
        def report(at):
            if at.step == stop:
                raise InterruptionError

        model = seeded_model(SHAPE)
        train(model, SHAPE, FirstLabelled(), config, torch.device("cpu"), report, state=tmp_path / "s.state")

    monkeypatch.setattr("raycomp.training_loop._SAVE_EVERY", 1)
    with pytest.raises(InterruptionError):
        run(stop=2)
    run(stop=-1)
