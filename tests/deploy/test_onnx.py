"""Exports answer like torch, for every method that has a fixed graph and any batch."""

import numpy as np
import onnx
import pytest
import torch

from raycomp.deploy import model as models
from raycomp.deploy.model import FACTS, Facts
from raycomp.deploy.onnx import compare, export_onnx, export_program, open_session
from raycomp.deploy.predict import open_model
from raycomp.errors import UserError
from tests.conftest import TINY, seeded_images
from tests.deploy.test_model import CLASSES, DATA, compressed

IMAGES = seeded_images(TINY, 5)
CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean_keys", "keys", "algm", "cts"])
def test_the_onnx_graph_answers_like_torch(model, saliency, method, tmp_path):
    made = compressed(model, saliency, method, seed=3)
    facts, path = models.facts_of(made, DATA, CLASSES), tmp_path / "made.onnx"
    assert export_onnx(made, facts, path, IMAGES) < 1e-4
    session = open_session(str(path))
    for batch in (1, 3):  # neither is what was traced
        found = session.run(None, {"images": IMAGES[:batch].numpy()})[0]
        np.testing.assert_allclose(found, made(IMAGES[:batch]).detach().numpy(), atol=1e-4)
    held = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert Facts.model_validate_json(held[FACTS]) == facts
    assert held["recipe"] == made.recipe.canonical_json()
    assert {i.domain for i in onnx.load(path).opset_import if i.domain} <= {"pkg.onnxscript.torch_lib.common"}


@pytest.mark.slow
def test_the_exported_program_answers_like_torch(model, saliency, tmp_path):
    made, path = compressed(model, saliency, "mean_keys", seed=3), tmp_path / "made.pt2"
    facts = models.facts_of(made, DATA, CLASSES)
    assert export_program(made, facts, path, IMAGES) < 1e-4
    run, held = open_model(path, CPU)
    assert held == facts
    torch.testing.assert_close(run(IMAGES[:3]), made(IMAGES[:3]), rtol=0, atol=1e-4)


def test_what_adapts_to_the_image_has_no_graph(model, saliency, tmp_path):
    made = compressed(model, saliency, "adaptive")
    facts = models.facts_of(made, DATA, CLASSES)
    for export in (export_onnx, export_program):
        with pytest.raises(UserError, match="adapts to the image has no fixed graph"):
            export(made, facts, tmp_path / "made", IMAGES)
    assert not list(tmp_path.iterdir())


def test_an_export_that_differs_is_refused(model):
    wanted = model(IMAGES).detach().numpy()
    assert compare(model, lambda x: wanted[: len(x)] + 5e-5, IMAGES) == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(UserError, match=r"differ by 0\.1 from torch's, on 5 of 5 images"):
        compare(model, lambda x: wanted[: len(x)] + 0.1, IMAGES)
    with pytest.raises(UserError, match="differ by nan"):
        compare(model, lambda x: np.full_like(wanted[: len(x)], np.nan), IMAGES)
