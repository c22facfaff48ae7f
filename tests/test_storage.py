# SPDX-License-Identifier: Apache-2.0
"""Results in object storage, against an S3 server: paths, files, rows, one writer, and what people get to see."""

import json
import os
import pickle
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raycomp.data.folders import split_folder
from raycomp.deploy.predict import pictures
from raycomp.errors import UserError
from raycomp.files import check_outputs, fetched, written
from raycomp.results import lock
from raycomp.results.store import Store, sweep_folder
from raycomp.storage import AnyPath, ObjectPath, located, remove_folder, resolved
from tests.helpers.services import SECRET, s3
from tests.helpers.trials import CONFIG, ROW


@pytest.fixture(scope="module")
def bucket():
    with s3() as environment:
        before = dict(os.environ)
        os.environ |= environment
        yield "s3://sweeps/results"
        os.environ.clear()
        os.environ |= before


def test_a_text_without_a_scheme_is_a_local_path():
    assert located("results/x") == Path("results/x")
    assert located("file:///tmp/x") == Path("/tmp/x")


@pytest.mark.parametrize(("text", "words"), [("stone://a/b", "unknown storage"), ("s3://", "names no bucket")])
def test_other_uris_are_refused(text, words):
    with pytest.raises(UserError, match=words):
        located(text)


def test_a_folder_goes_with_the_link_to_it_and_nothing_beside_it(tmp_path):
    (tmp_path / "far" / "trials").mkdir(parents=True)
    (tmp_path / "far" / "sweep.yaml").write_text("name: far")
    (tmp_path / "beside").mkdir()
    (tmp_path / "far" / "data").symlink_to(tmp_path / "beside")
    (tmp_path / "near").symlink_to(tmp_path / "far")
    remove_folder(tmp_path / "near", last=("sweep.yaml", ".lock"))
    assert [path.name for path in tmp_path.iterdir()] == ["beside"]


def test_a_path_behaves_like_a_local_one(bucket, tmp_path):
    remote, local = located(bucket) / "like", tmp_path / "like"
    for root in (remote, local):
        for name in ("one/sweep.yaml", "two/sweep.yaml", "two/trials/a.parquet", "other.txt"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        assert sorted(path.parent.name for path in root.glob("*/sweep.yaml")) == ["one", "two"]
        assert [path.stem for path in (root / "two" / "trials").glob("*.parquet")] == ["a"]
        assert list((root / "none").glob("*")) == []
        assert (root / "two").is_dir()
        assert not (root / "two").is_file()
        assert not (root / "gone").is_dir()
        assert (root / "other.txt").read_text() == "other.txt"
        assert (root / "other.txt").suffix == ".txt"
        (root / "other.txt").unlink()
        remove_folder(root / "two", last=("sweep.yaml",))
        assert not (root / "two").is_dir()
        assert sorted(path.parent.name for path in root.glob("*/sweep.yaml")) == ["one"]
        (root / "other.txt").unlink(missing_ok=True)
        assert not (root / "other.txt").is_file()
        with pytest.raises(FileNotFoundError):
            (root / "other.txt").unlink()
    assert pickle.loads(pickle.dumps(remote)) / "x" == remote / "x"


def _break_off(path: AnyPath) -> None:
    with written(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("broken")


def test_a_file_is_written_whole_or_not_at_all(bucket):
    path = located(bucket) / "whole" / "model.txt"
    with pytest.raises(UserError, match=r"s3://sweeps/results/whole/model.txt: not written: broken"):
        _break_off(path)
    assert not path.is_file()
    with written(path) as temporary:
        temporary.write_text("whole")
    with fetched(path) as copy:
        assert copy.name == "model.txt"
        assert copy.read_text() == "whole"
    assert not copy.exists()


def test_a_sweep_is_stored_and_compacted(bucket):
    store = Store(sweep_folder(bucket, "tiny"))
    store.open(CONFIG)
    assert Store(sweep_folder(bucket, "tiny")).config() == CONFIG
    rows = [replace(ROW, recipe_id=f"{number:012x}", number=number) for number in range(4)]
    for row in rows:
        store.write(row)
    store.write(rows[1])
    before = store.rows()
    assert [row.number for row in before] == [0, 1, 2, 3]
    assert store.read("search", rows[2].recipe_id) == before[2]
    assert store.compact() == 4
    assert store.rows() == before
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        Store(sweep_folder(bucket, "tinny")).config()


def test_a_bucket_that_is_not_there_is_told(bucket):
    with pytest.raises(UserError, match=r"results folder s3://nothing/results/tiny: not writable \(.*NO_SUCH_BUCKET"):
        Store(sweep_folder("s3://nothing/results", "tiny")).open(CONFIG)


def test_one_writer_at_a_time(bucket, monkeypatch):
    monkeypatch.setattr(lock, "RENEWED", 0.2)
    monkeypatch.setattr(lock, "_WATCHED", 1.0)
    monkeypatch.setattr(lock, "_dead", lambda holder: False)  # as for a job on another machine
    folder = sweep_folder(bucket, "held")
    assert isinstance(folder, ObjectPath)
    first, second = lock.Lock(folder), lock.Lock(folder)
    first.take()
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing to it; wait, or choose another"):
        second.take()
    first.drop()
    second.take()
    assert not second.lost()
    second.drop()
    # left over from a job that was killed: nobody renews it
    (folder / ".lock").write_bytes(json.dumps({"who": "x", "host": "y", "process": 1, "id": "z", "count": 7}).encode())
    first.take()
    # another takes over from one that was away for long
    (folder / ".lock").write_bytes(json.dumps({"who": "x", "host": "y", "process": 1, "id": "z", "count": 8}).encode())
    until = time.monotonic() + 10
    while not first.lost():
        assert time.monotonic() < until
        time.sleep(0.05)
    first.drop()
    assert (folder / ".lock").is_file(), "it is the other's"


def test_a_lease_of_a_process_of_this_machine_that_has_ended_is_taken_at_once(bucket, monkeypatch):
    folder = sweep_folder(bucket, "ended")
    dead = {"who": "x", "host": socket.gethostname(), "process": 2**22 - 1, "id": "z", "count": 1}
    (folder / ".lock").write_bytes(json.dumps(dead).encode())
    monkeypatch.setattr(lock, "_WATCHED", 1e9)
    held = lock.Lock(folder)
    held.take()
    held.drop()


def test_keys_in_a_uri_are_not_shown(bucket):
    path = located(f"s3://key:{SECRET}@sweeps/results?scheme=http&region=us-east-1")
    assert str(path) == "s3://sweeps/results"
    assert str(path / "x") == "s3://sweeps/results/x"


def test_a_link_to_itself_is_a_path_like_others(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert resolved(loop) == loop
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert resolved(tmp_path / "link") == tmp_path / "there"
    (tmp_path / "x.png").touch()
    check_outputs("--out", [loop], [tmp_path / "x.png"])
    assert pictures([tmp_path / "x.png"], loop) == {tmp_path / "x.png": loop / "x.png"}
    with pytest.raises(UserError, match=r"data\.root: no folder loop in"):
        split_folder(loop, "images", "val", "images")
