# SPDX-License-Identifier: Apache-2.0
"""Old names in search spaces, sweep folders and rows are read under the new names, with one warning."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml

from raycomp.config import SweepConfig, load
from raycomp.errors import UserError
from raycomp.recipe import dense
from raycomp.renamed import COLUMNS, FIELDS, renamed_fields
from raycomp.results.row import SCHEMA
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.trials import fake_row

HEAD = {"name": "x", "model": {"checkpoint": "x"}, "data": {"dataset": "streetscenes"}}
STAGE = {"clean": 1, "corrupted": 1}
OLD = {
    "search": {"known": [0.5], "limit": "latency", "trials": 20},
    "evaluation": {"first": STAGE, "search": {"clean": 2, "corrupted": 1}},
}
NEW = {
    "search": {"baselines": [0.5], "cost_metric": "latency", "trials": 20},
    "evaluation": {"early_stopping": STAGE, "search": {"clean": 2, "corrupted": 1}},
}
MESSAGES = (
    "search.known is now search.baselines, search.limit is now search.cost_metric, "
    "evaluation.first is now evaluation.early_stopping"
)
ROW = replace(
    fake_row(TINY, Proposal(1, "search", "baseline", "uniform ToMe 50%", dense(TINY))),
    operating_point="r = 2",
    early_clean_miou=0.4,
    early_corrupted_miou=0.2,
)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "x")
    store.open(SweepConfig.model_validate(HEAD | NEW))
    return store


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def rename(store: Store, columns: dict[str, str], origin: str) -> None:
    """Give the columns of the store's one file other names, and its row another origin."""
    [path] = store.files()
    table = pq.read_table(path)
    position = table.column_names.index("origin")
    table = table.set_column(position, table.schema.field("origin"), [[origin]])
    pq.write_table(table.rename_columns([columns.get(name, name) for name in table.column_names]), path)


@pytest.mark.parametrize(
    ("settings", "expected", "messages"),
    [
        ({}, {}, []),
        (NEW, NEW, []),
        ({"search": {"known": [0.5]}}, {"search": {"baselines": [0.5]}}, ["search.known is now search.baselines"]),
        ({"search": {"first": 1}, "known": 2}, {"search": {"first": 1}, "known": 2}, []),
        ({"search": {"known": [0.5], "baselines": [0.4]}}, {"search": {"known": [0.5], "baselines": [0.4]}}, []),
        ({"search": "known", "evaluation": None}, {"search": "known", "evaluation": None}, []),
        (OLD, NEW, MESSAGES.split(", ")),
    ],
)
def test_fields_are_renamed_within_their_section(settings, expected, messages):
    before = yaml.safe_dump(settings)
    assert renamed_fields(settings) == (expected, messages)
    assert yaml.safe_dump(settings) == before, "the argument is unchanged"


def test_every_new_name_is_a_field_or_a_column():
    for (section, old), new in FIELDS.items():
        fields = SweepConfig.model_fields[section].annotation.model_fields
        assert (old in fields, new in fields) == (False, True)
    assert set(COLUMNS.values()) <= set(SCHEMA.names)
    assert not set(COLUMNS) & set(SCHEMA.names)


def test_a_space_file_with_old_fields_is_read_with_one_warning(tmp_path, caplog):
    for name, sections in (("old", OLD), ("new", NEW)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(HEAD | sections))
    config = load(tmp_path / "old.yaml")
    assert warnings(caplog) == [f"{tmp_path / 'old.yaml'}: {MESSAGES}"]
    assert config == load(tmp_path / "new.yaml")
    assert (config.search.baselines, config.search.cost_metric) == ((0.5,), "latency")
    assert len(caplog.records) == 1, "no warning of a file with the new names"


@pytest.mark.parametrize(("section", "old", "value"), [(section, old, OLD[section][old]) for section, old in FIELDS])
def test_both_names_in_one_section_are_refused_and_the_old_one_is_reported(tmp_path, caplog, section, old, value):
    sections = NEW | {section: NEW[section] | {old: value}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(HEAD | sections))
    with pytest.raises(UserError, match=rf"x\.yaml: unknown field '{section}\.{old}'"):
        load(tmp_path / "x.yaml")
    assert not caplog.records


def test_a_sweep_folder_with_old_fields_is_resumed_with_one_warning(store, caplog):
    path = store.folder / "sweep.yaml"
    settings = yaml.safe_load(path.read_text())
    for (section, old), new in FIELDS.items():
        settings[section][old] = settings[section].pop(new)
    path.write_text(yaml.safe_dump(settings))
    assert store.config() == store.config() == SweepConfig.model_validate(HEAD | NEW)
    assert warnings(caplog) == [f"{path}: {MESSAGES}"]
    store.open(SweepConfig.model_validate(HEAD | NEW))
    stored = yaml.safe_load(path.read_text())
    assert all(new in stored[section] and old not in stored[section] for (section, old), new in FIELDS.items())


def test_rows_with_old_columns_are_read_under_the_new_names_with_one_warning(store, caplog):
    store.write(ROW)
    rename(store, {new: old for old, new in COLUMNS.items()}, origin="known")
    assert {"setting", "first_clean_miou"} <= set(pq.read_schema(store.files()[0]).names)
    assert store.rows() == store.rows() == [ROW]
    assert warnings(caplog) == [
        f"{store.folder}: rows of an older version have first_clean_miou for early_clean_miou, "
        "have first_corrupted_miou for early_corrupted_miou, have setting for operating_point"
    ]


def test_old_rows_are_written_back_under_the_new_names(store, caplog):
    store.write(ROW)
    rename(store, {new: old for old, new in COLUMNS.items()}, origin="known")
    store.lock.drop()
    assert store.compact() == 1
    [path] = store.files()
    table = pq.read_table(path)
    assert table.column_names == SCHEMA.names
    assert table["origin"].to_pylist() == ["baseline"]
    caplog.clear()
    assert Store(store.folder).rows() == [ROW]
    assert not caplog.records


@pytest.mark.parametrize("origin", ["reference", "proposed", "baseline", "tome"])
def test_other_origins_stay(store, origin, caplog):
    store.write(ROW)
    rename(store, {}, origin)
    assert [row.origin for row in store.rows()] == [origin]
    assert not caplog.records
