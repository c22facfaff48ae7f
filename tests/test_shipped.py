# SPDX-License-Identifier: Apache-2.0
"""Search spaces by name or path."""

from pathlib import Path

import pytest

from raycomp.errors import UserError
from raycomp.shipped import search_spaces, space_file

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"


def test_all_spaces_of_the_folder_are_shipped():
    assert search_spaces() == {path.stem: path for path in FOLDER.glob("*.yaml")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a file of no suffix and a folder."""
    (tmp_path / "mine").touch()
    (tmp_path / "ade20k_deit_base").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("streetscenes_vit_micro", FOLDER / "streetscenes_vit_micro.yaml"),
        ("streetscenes_vit_micro.yaml", Path("streetscenes_vit_micro.yaml")),
        ("mine", Path("mine")),
        ("ade20k_deit_base", Path("ade20k_deit_base")),  # what is here comes first
        ("not/here", Path("not/here")),
        (300 * "a", Path(300 * "a")),
    ],
)
def test_a_name_is_a_shipped_space_unless_a_file_has_it(folder, given, found):
    assert space_file(given) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("streetscenes_vit_mirco", "neither a file nor a shipped name; did you mean 'streetscenes_vit_micro'?"),
        ("x", "allowed: ade20k_deit_base, camvid_vit_tiny, cityscapes_deit_base, streetscenes_vit_micro"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(folder, given, said):
    with pytest.raises(UserError, match="search space '") as refused:
        space_file(given)
    assert said in str(refused.value)
