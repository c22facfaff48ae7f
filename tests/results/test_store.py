# SPDX-License-Identifier: Apache-2.0
"""Rows on disk: whole, typed, never mixed with another sweep's."""

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raycomp.errors import UserError
from raycomp.results.query import completed
from raycomp.results.row import SCHEMA
from raycomp.results.store import Store, sweep_folder
from raycomp.settings.space_and_search import SearchConfig
from tests.helpers.trials import CONFIG, ROW


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "tiny")
    store.open(CONFIG)
    return store


def test_a_row_comes_back_and_its_columns_are_documented(store):
    store.write(ROW)
    assert completed(store.rows(), "search") == [ROW]
    schema = pq.read_schema(store.files()[0])
    assert schema.names == SCHEMA.names
    assert all(field.metadata[b"doc"] for field in schema)


def test_writing_a_row_again_replaces_it(store):
    store.write(ROW)
    store.write(replace(ROW, status="failed"))
    assert [row.status for row in store.rows()] == ["failed"]


def test_a_write_that_fails_leaves_nothing(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"results folder .*: not writable \(No space left on device\)"):
        store.write(ROW)
    there = {path.name for path in store.folder.rglob("*") if path.is_file()}
    assert there == {"sweep.yaml", ".lock"}


def with_columns(store: Store, **columns: pa.Array) -> None:
    """Write columns to the file of `ROW`, as a newer version would; None takes one away."""
    store.write(ROW)
    table = pq.read_table(store.files()[0])
    for name, column in columns.items():
        if column is None:
            table = table.drop_columns(name)
        else:
            table = table.append_column(pa.field(name, column.type, metadata={"doc": "new"}), column)
    pq.write_table(table, store.files()[0])


def test_columns_of_a_newer_version_are_kept_where_a_row_is_written_again(store):
    new = {"surprise": pa.array([7], pa.int8()), "more": pa.array([["a"]])}
    with_columns(store, **new)
    other = replace(ROW, recipe_id="0" * 12)
    store.write(other)
    [kept, _] = sorted(store.rows(), key=lambda row: row.recipe_id != ROW.recipe_id)
    assert replace(kept, extra=()) == ROW
    assert kept.columns() == ROW.columns() | {"surprise": 7, "more": ["a"]}
    store.lock.drop()
    store.compact()
    assert {row.recipe_id: row.extra for row in store.rows()}[ROW.recipe_id] == kept.extra
    schema = pq.read_schema(store.files()[0])
    assert schema.names == [*SCHEMA.names, *new]
    assert schema.field("surprise").type == pa.int8()
    assert schema.field("surprise").metadata == {b"doc": b"new"}


def test_columns_that_an_older_version_did_not_write_are_named_once(store, caplog):
    with_columns(store, per_image=None, class_iou=None, seed=None)
    assert store.rows() == store.rows() == [replace(ROW, per_image=None, class_iou=(), seed=0)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.folder}: rows of an older version have no class_iou, per_image, seed"
    ]


def test_rows_that_say_all_give_no_warning(store, caplog):
    store.write(ROW)
    assert store.rows() == [ROW]
    assert not caplog.records


def test_a_damaged_file_is_named(store):
    store.write(ROW)
    path = store.files()[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{path.name}: not a readable Parquet file"):
        store.rows()


@pytest.mark.parametrize("text", ["name: [", "- a", "2001-99-99", "[" * 5000, "serach: {}"])
def test_settings_that_cannot_be_read_are_not_gone_on_with(store, text):
    store.lock.drop()
    (store.folder / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.yaml: "):
        Store(store.folder).open(CONFIG)
    assert (store.folder / "sweep.yaml").read_text() == text


def test_the_same_sweep_opens_again_with_more_trials(store):
    store.open(CONFIG.changed("search", trials=500))
    assert store.config().search.trials == 500


def test_a_sweep_from_before_a_field_existed_goes_on(store):
    path = store.folder / "sweep.yaml"
    older = yaml.safe_load(path.read_text())
    del older["recovery"]
    del older["model"]["elastic"]
    path.write_text(yaml.safe_dump(older))
    store.open(CONFIG)
    with pytest.raises(UserError, match=r"recovery\.mode 'none', now 'reconstruct'"):
        store.open(CONFIG.changed("recovery", mode="reconstruct"))


def test_a_sweep_has_the_name_of_its_folder_also_where_it_was_begun_with_its_spaces(store):
    store.open(CONFIG.model_copy(update={"name": "space"}))
    assert store.config().name == store.folder.name
    store.open(CONFIG)


def test_another_sweep_in_the_folder_is_refused(store):
    with pytest.raises(UserError, match=r"search\.budget 0\.6, now 0\.3; choose another --name"):
        store.open(CONFIG.changed("search", budget=0.3))
    assert store.config() == CONFIG


def test_a_folder_that_another_process_writes_to_is_refused_until_it_ends(store):
    code = f"""
from contextlib import nullcontext
from pathlib import Path
from raycomp.errors import UserError
from raycomp.results.store import Store
try:
    Store(Path({str(store.folder)!r})).lock.take()
    print("held")
except UserError as error:
    print(error)
"""

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert f"process {os.getpid()} on " in other()
    assert "is writing to it; wait, or choose another --name" in other()
    store.open(CONFIG)  # its own lock is no hindrance
    store.lock.drop()
    assert other() == "held\n"
    Store(store.folder).lock.take()  # what the other held ended with it


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not writable"):
        Store(tmp_path / "file" / "tiny").open(CONFIG)


def test_an_unknown_sweep_names_the_nearest(store):
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        Store(store.folder.parent / "tinny").config()


def test_default_search_settings_are_shares():
    assert SearchConfig.model_validate({"budget": "45%"}).budget == pytest.approx(0.45)


def test_compacting_keeps_every_row_and_later_rows_come_before_it(store):
    rows = [replace(ROW, recipe_id=f"{number:012x}", number=number) for number in range(5)]
    for row in rows:
        store.write(row)
    before = store.rows()
    assert store.compact() == 5
    assert [path.name for path in store.files()] == ["compact.parquet"]
    assert store.rows() == before
    store.write(replace(rows[3], status="failed"))
    assert [row.status for row in store.rows()] == ["complete"] * 3 + ["failed", "complete"]
    assert store.compact() == 1
    assert [row.status for row in store.rows()] == ["complete"] * 3 + ["failed", "complete"]
    assert store.compact() == 0


def test_compacting_that_is_killed_between_its_steps_loses_and_doubles_nothing(store, monkeypatch):
    rows = [replace(ROW, recipe_id=f"{number:012x}", number=number) for number in range(3)]
    for row in rows:
        store.write(row)
    before = store.rows()

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(store.folder), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    assert len(store.files()) == 4
    assert store.rows() == before
    assert Store(store.folder).compact() == 3
    assert store.rows() == before


def test_a_sweep_that_is_written_to_is_not_compacted(store):
    store.write(ROW)
    with pytest.raises(UserError, match="is writing to it"):
        Store(store.folder).compact()
    assert store.files()[0].name.startswith("search-")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "/etc", "a\nb", "half-50%"])
def test_a_name_that_leads_out_of_the_results_is_refused(name):
    with pytest.raises(UserError, match="sweep name"):
        sweep_folder("results", name)


def test_a_row_whose_names_lead_out_of_the_folder_is_not_written(store):
    with pytest.raises(UserError, match="not a valid file name"):
        store.write(replace(ROW, recipe_id="../../../escaped"))
    assert not list(store.folder.parent.glob("**/*escaped*"))


def test_reading_leaves_no_thread_that_python_could_not_end(store):
    """An Arrow thread that lets go of a file's bytes while Python ends aborts the process."""
    store.write(ROW)
    script = (
        "import os, sys, time; from pathlib import Path; from raycomp.results.store import Store\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "store = Store(Path(sys.argv[1])); before = count(); rows = store.rows(); deadline = time.monotonic() + 10\n"
        "while count() > before and time.monotonic() < deadline: time.sleep(0.01)  # Python's own take a moment to go\n"
        "print(len(rows), count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


def test_training_between_the_rounds_of_nvit_must_stay_the_same(store):
    """It decides what a comparison measures, as fine-tuning does."""
    between = CONFIG.changed("nvit", train_between={"steps": 40})
    other = Store(store.folder.parent / "between")
    other.open(between)
    with pytest.raises(UserError, match=r"its sweep has train\.lr 0\.001, now 0\.5"):
        other.check(between.changed("train", lr=0.5))
    store.check(CONFIG.changed("train", lr=0.5))  # nothing is trained there


def test_a_sweep_of_a_release_without_dropout_was_trained_without(store):
    settings = yaml.safe_load((store.folder / "sweep.yaml").read_text())
    for section in (settings, settings["elastic"], settings["refine"], settings["policy"]):
        del section["train"]["decoder_dropout"]
    (store.folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    config = store.config()
    rates = [s.train.decoder_dropout for s in (config, config.elastic, config.refine, config.policy)]
    assert rates == [0.0] * 4


def test_a_sweep_keeps_the_heads_that_were_a_setting_once(store):
    settings = yaml.safe_load((store.folder / "sweep.yaml").read_text())
    for least, fits in ((1, True), (2, False)):
        (store.folder / "sweep.yaml").write_text(yaml.safe_dump(settings | {"nvit": {"least_heads": least}}))
        with nullcontext() if fits else pytest.raises(UserError, match=r"unknown field 'nvit\.least_heads'"):
            assert store.config() == CONFIG
