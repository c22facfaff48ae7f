# SPDX-License-Identifier: Apache-2.0
"""`variant.yml` of an official run: every field that is used is checked, and a wrong one is named."""

import pytest
import yaml

from raycomp.config import parsed
from raycomp.errors import UserError
from raycomp.models import checkpoints
from tests.helpers.checkpoints import VARIANT, official

_MISSING = object()


def changed(place: str, value: object) -> str:
    """Return a variant.yml with one field set or removed."""
    variant = parsed(VARIANT)
    *sections, last = place.split(".")
    section = variant
    for name in sections:
        section = section[name]
    if value is _MISSING:
        del section[last]
    else:
        section[last] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(variant)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("net_kwargs.image_size", 64, "expected height and width, as in [64, 64], not 64"),
        ("net_kwargs.image_size", [64], "missing"),
        ("net_kwargs.image_size", "large", "valid tuple, not 'large'"),
        ("net_kwargs.d_model", "wide", "valid integer, unable to parse string as an integer, not 'wide'"),
        ("net_kwargs.d_model", 0, "greater than 0, not 0"),
        ("net_kwargs.n_heads", None, "valid integer, not None"),
        ("net_kwargs.n_layers", 1.5, "integer, got a number with a fractional part, not 1.5"),
        ("net_kwargs.patch_size", [8, 8], "valid integer, not [8, 8]"),
        ("net_kwargs.n_cls", 1, "greater than 1, not 1"),
        ("net_kwargs.distilled", "perhaps", "valid boolean"),
        ("net_kwargs.normalization", "imagenet", "'vit' or 'deit', not 'imagenet'"),
        ("net_kwargs.decoder.name", "deeplab", "'linear' or 'mask_transformer', not 'deeplab'"),
        ("net_kwargs.decoder.n_layers", -1, "greater than or equal to 0, not -1"),
        ("net_kwargs.decoder", "linear", "valid dictionary"),
        ("net_kwargs.d_model", _MISSING, "is missing"),
        ("net_kwargs.decoder", _MISSING, "is missing"),
        ("net_kwargs.decoder.name", _MISSING, "is missing"),
        ("net_kwargs", _MISSING, "is missing"),
        ("net_kwargs", 3, "valid dictionary"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, field, value, message):
    path = official(tmp_path)
    (tmp_path / "variant.yml").write_text(changed(field, value))
    with pytest.raises(UserError) as refused:
        checkpoints.load(path)
    text = str(refused.value)
    assert text.startswith(f"{tmp_path / 'variant.yml'}: field '{field}")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"net_kwargs: [", b"\xff\xfe", b"3", b"[1]"])
def test_a_variant_that_is_not_a_mapping_is_refused_in_one_line(tmp_path, content):
    path = official(tmp_path)
    (tmp_path / "variant.yml").write_bytes(content)
    with pytest.raises(UserError, match=r"variant\.yml: ") as refused:
        checkpoints.load(path)
    assert "\n" not in str(refused.value)


def test_a_width_that_is_not_a_multiple_of_heads_is_refused(tmp_path):
    path = official(tmp_path)
    (tmp_path / "variant.yml").write_text(changed("net_kwargs.n_heads", 5))
    with pytest.raises(UserError, match=r"variant\.yml: width 32 is not a multiple of heads 5"):
        checkpoints.load(path)
