"""Search space files: what they leave unsaid, and what is wrong in them."""

import pytest
import yaml

from raycomp.config import SweepConfig, load
from raycomp.errors import UserError
from raycomp.sections import TrainConfig

SPACE = {
    "name": "x",
    "model": {"checkpoint": "x.safetensors"},
    "data": {"dataset": "streetscenes"},
    "train": {"steps": 400, "optimizer": "adamw", "lr": 2e-3, "drop_path": 0.2},
}


@pytest.fixture
def read(tmp_path):
    def read(**sections):
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(SPACE | sections))
        return load(tmp_path / "x.yaml")

    return read


def test_elastic_models_and_fronts_are_trained_like_the_dense_model(read):
    config = read(refine={"seeds": [0, 1], "train": {"steps": 50}})
    assert config.refine.train == config.train.model_copy(update={"steps": 50})
    assert config.refine.seeds == (0, 1)
    assert config.elastic.train == config.train.model_copy(update={"drop_path": 0.0, "decoder_dropout": 0.0})
    assert read(elastic={"train": {"drop_path": 0.3}}).elastic.train.drop_path == 0.3
    bare = {name: value for name, value in SPACE.items() if name != "train"}
    assert SweepConfig.model_validate(bare).elastic.train == TrainConfig(drop_path=0.0, decoder_dropout=0.0)
    assert config.changed("train", steps=7).elastic.train.steps == 400  # an option of one is not of the others


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"train": {"lr": -1}}, "'train.lr'"),
        ({"train": 3}, "'train'"),
        ({"elastic": 3}, "'elastic'"),
        ({"refine": {"train": {"step": 3}}}, "'refine.train.step'"),
        ({"data": {"dataset": "streetscenes", "window": [64, 48], "stride": 64}}, "data.stride is 64, the window 64x"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(read, sections, field):
    with pytest.raises(UserError) as caught:
        read(**sections)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
