# SPDX-License-Identifier: Apache-2.0
"""Two processes train the model that one would, and stop together."""

from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from raycomp import parallel
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.recipe import dense
from raycomp.settings.training import AugmentConfig, TrainConfig
from raycomp.training_loop import train
from tests.conftest import TINY

SHAPE = TINY.model_copy(update={"image": (64, 64), "classes": 11})
CONFIG = TrainConfig(steps=4, batch=4, optimizer="sgd", lr=0.05, clip=1.0, drop_path=0.0, augment=AugmentConfig())


def trained(state: Path | None, config: TrainConfig = CONFIG) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    model = Segmenter(SHAPE, dense(SHAPE))
    init_weights(model, torch.Generator().manual_seed(0))
    return train(
        model, SHAPE, StreetScenes("train", 8), config, torch.device("cpu"), lambda at: None, state=state
    ).state_dict()


def one_of_two(rank: int, folder: Path, lr: float) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        config = CONFIG.model_copy(update={"lr": lr, "clip": 1.0 if lr < 1 else None})
        torch.save(trained(folder / "a.state", config), folder / f"{rank}.pt")
    except UserError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    distributed.destroy_process_group()


def test_two_processes_train_what_one_does(tmp_path):
    alone = trained(None)
    spawn(one_of_two, (tmp_path, CONFIG.lr), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, weight in alone.items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], weight, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "a.state").is_file()


def test_processes_whose_training_diverges_stop_together(tmp_path):
    spawn(one_of_two, (tmp_path, 1e30), nprocs=2)
    for rank in range(2):
        assert "a train.lr below 1e+30 may help" in (tmp_path / f"{rank}.txt").read_text()


def test_alone_nothing_is_averaged():
    assert (parallel.rank(), parallel.world()) == (0, 1)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    parallel.average_gradients([parameter])
    assert parameter.grad.tolist() == [1, 2]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 3)
    with pytest.raises(UserError, match=r"train\.batch is 4: 3 workers cannot share it evenly"):
        trained(None)
