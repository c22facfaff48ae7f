# SPDX-License-Identifier: Apache-2.0
"""Exports answer like torch, for every method that has a fixed graph and any batch."""

import sys
from contextlib import nullcontext
from copy import deepcopy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from raycomp.deploy import model as models
from raycomp.deploy.model import CARD_FIELD, ModelCard
from raycomp.deploy.onnx import compare, export_onnx, export_program, open_session, run_bound
from raycomp.deploy.predict import moved, open_model, predict
from raycomp.errors import UserError
from tests.conftest import TINY, seeded_images
from tests.helpers.deploy import CLASSES, DATA, compressed
from tests.helpers.onnx_graphs import identity

IMAGES = seeded_images(TINY, 5)
CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean_keys", "keys", "algm", "cts", "near_keys", "windows_tome", "windows_near"])
def test_the_onnx_graph_answers_like_torch(model, saliency, method, tmp_path):
    made = compressed(model, saliency, method, seed=3)
    card, path = models.card_of(made, DATA, CLASSES), tmp_path / "made.onnx"
    assert export_onnx(made, card, path, IMAGES) < 1e-4
    session = open_session(str(path), CPU)
    for batch in (1, 3):  # neither is what was traced
        found = session.run(None, {"images": IMAGES[:batch].numpy()})[0]
        np.testing.assert_allclose(found, made(IMAGES[:batch]).detach().numpy(), atol=1e-4)
        apart = IMAGES.repeat_interleave(2, 0)[: 2 * batch : 2]  # not contiguous
        assert np.array_equal(run_bound(session, apart).numpy(), found)
    held = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert ModelCard.model_validate_json(held[CARD_FIELD]) == card
    assert held["recipe"] == made.recipe.canonical_json()
    assert {i.domain for i in onnx.load(path).opset_import if i.domain} <= {"pkg.onnxscript.torch_lib.common"}


@pytest.mark.slow
def test_the_exported_program_answers_like_torch(model, saliency, tmp_path):
    made, path = compressed(model, saliency, "mean_keys", seed=3), tmp_path / "made.pt2"
    card = models.card_of(made, DATA, CLASSES)
    assert export_program(made, card, path, IMAGES) < 1e-4
    run, held = open_model(path, CPU)
    assert held == card
    torch.testing.assert_close(run(IMAGES[:3]), made(IMAGES[:3]), rtol=0, atol=1e-4)


def test_what_adapts_to_the_image_has_no_graph(model, saliency, tmp_path):
    made = compressed(model, saliency, "adaptive")
    card = models.card_of(made, DATA, CLASSES)
    for export in (export_onnx, export_program):
        with pytest.raises(UserError, match="adaptive merging has no fixed graph"):
            export(made, card, tmp_path / "made", IMAGES)
    assert not list(tmp_path.iterdir())


def test_an_export_that_differs_is_refused(model):
    wanted = model(IMAGES).detach().numpy()
    assert compare(model, lambda x: wanted[: len(x)] + 5e-5, IMAGES) == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(UserError, match=r"differ from torch's by 0\.1, on 5 of 5 images"):
        compare(model, lambda x: wanted[: len(x)] + 0.1, IMAGES)
    with pytest.raises(UserError, match="differ from torch's by nan"):
        compare(model, lambda x: np.full_like(wanted[: len(x)], np.nan), IMAGES)


@pytest.mark.slow
def test_an_onnx_graph_slides_over_an_image_larger_than_its_window(model, tmp_path):
    card = models.card_of(model, DATA.model_copy(update={"short_side": None}), CLASSES)
    export_onnx(model, card, tmp_path / "made.onnx", IMAGES)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)).save(tmp_path / "x.png")
    run, held = open_model(tmp_path / "made.onnx", CPU)
    (_, _, found), (_, _, wanted) = (
        next(predict(one, held, [tmp_path / "x.png"], CPU)) for one in (run, deepcopy(model))
    )
    assert found.shape == (80, 100)
    assert (found == wanted).mean() > 0.999  # two classes may be as good as equal somewhere


@pytest.mark.slow
def test_models_are_exported_in_float32_whatever_they_run_in(model, tmp_path):
    half = deepcopy(model).bfloat16()
    card = models.card_of(model, DATA, CLASSES)
    export_program(half, card, tmp_path / "made.pt2", IMAGES)
    run, _ = open_model(tmp_path / "made.pt2", CPU)
    assert torch.equal(run(IMAGES), deepcopy(half).float()(IMAGES))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean_keys", "cts"])
def test_a_program_moves_to_another_device_whole(model, saliency, method, tmp_path, monkeypatch):
    """To torch's meta device, which computes shapes alone, and like any other refuses to mix with the CPU."""
    made, path = compressed(model, saliency, method, seed=3), tmp_path / "made.pt2"
    export_program(made, models.card_of(made, DATA, CLASSES), path, IMAGES)
    meta, program, wanted = torch.device("meta"), torch.export.load(path), made(IMAGES).shape

    def on_the_cpu(program) -> list[str]:
        graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
        nodes = [f"{node}: {node.args} {node.kwargs}" for graph in graphs for node in graph.nodes]
        tensors = {**program.state_dict, **program.constants}
        return [n for n in nodes if "cpu" in n] + [n for n, t in tensors.items() if t.device.type == "cpu"]

    assert len(on_the_cpu(program)) > len(program.state_dict)
    assert on_the_cpu(moved(program, meta)) == []
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())  # meta has none
    run, _ = open_model(path, meta)
    logits = run(IMAGES.to(meta))
    assert (logits.device, logits.shape) == (meta, wanted)


def test_a_torch_that_cannot_move_programs_says_so(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.export.passes", None)  # as in torch 2.6
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    with pytest.raises(UserError, match=r"--device cuda: torch .* cannot move a \.pt2 program from the CPU"):
        moved(program, torch.device("cuda"))


def test_a_session_runs_on_the_device_that_is_asked_for(tmp_path, monkeypatch):
    identity(tmp_path / "same.onnx")
    asked = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, source, options, providers):
            asked.append(providers)
            super().__init__(source, options, providers=["CPUExecutionProvider"])

    with pytest.raises(UserError, match=r"--device cuda: .*onnxruntime-gpu instead, or pass --device cpu"):
        open_model(tmp_path / "same.onnx", torch.device("cuda"))
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    session = open_session(str(tmp_path / "same.onnx"), CPU)
    images = torch.arange(96.0).view(2, 3, 4, 4)
    assert torch.equal(run_bound(session, images), images)
    with pytest.raises(UserError, match=r"--device cuda:1: onnxruntime .* does not find the CUDA and cuDNN"):
        open_session(str(tmp_path / "same.onnx"), torch.device("cuda:1"))
    cuda = ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})
    assert asked == [["CPUExecutionProvider"], [cuda, "CPUExecutionProvider"]]


def test_exports_are_compared_without_tf32(model):
    def run(images):
        assert not torch.backends.cuda.matmul.allow_tf32
        return model(torch.from_numpy(images)).detach().numpy()

    class Seen(torch.nn.Module):
        def forward(self, images):
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return model(images)

    seen = []
    assert torch.backends.cudnn.allow_tf32  # torch's default
    assert compare(Seen(), run, IMAGES) == 0  # type: ignore[arg-type]
    assert seen == [(False, False)]
