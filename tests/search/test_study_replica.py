# SPDX-License-Identifier: Apache-2.0
"""The copy of a sweep in Optuna's storage: journal file, and PostgreSQL."""

import json
import time

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raycomp.search.proposer import Proposer
from raycomp.search.study_replica import StudyReplica, study_uri
from raycomp.settings.space_and_search import SearchConfig, SpaceConfig, WidthRange
from raycomp.space import Space
from raycomp.storage import located
from tests.conftest import TINY
from tests.helpers.services import SECRET, postgres
from tests.helpers.trials import fake_row

SPACE = Space(TINY, SpaceConfig(mlp=WidthRange(low=64, step=16)), TINY.image)
CONFIG = SearchConfig(trials=12, budget=0.8, baselines=(0.7,))


def searched() -> tuple[Proposer, list]:
    """A sweep in which one trial fails."""
    proposer, rows = Proposer(SPACE, CONFIG, []), []
    while (proposal := proposer.next()) is not None:
        rows.append(fake_row(TINY, proposal, "failed" if len(rows) == 7 else "complete"))
        proposer.tell(rows[-1])
    return proposer, rows


def copied(uri: str, proposer: Proposer, rows: list, warn=pytest.fail) -> bool:
    """Copy rows; returns whether all is written."""
    copy = StudyReplica(uri, "tiny", proposer.space, warn)
    for row in rows:
        copy.log(row)
    return copy.close()


def check(storage: optuna.storages.BaseStorage, rows: list) -> None:
    study = optuna.load_study(study_name="tiny", storage=storage)
    search = [row for row in rows if row.stage == "search"]
    assert len(study.trials) == len(search)
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1
    by_recipe = {row.recipe_id: row for row in search}
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) > len(search) // 2
    for trial in complete:
        row = by_recipe[trial.user_attrs["recipe_id"]]
        assert trial.values == [row.clean_miou, row.corrupted_miou, row.gflops]
        assert len(trial.params) == len(SPACE.dimensions)
    assert study.best_trials


def test_a_sweep_is_in_a_journal_file_once(tmp_path):
    proposer, rows = searched()
    uri = study_uri(None, tmp_path)
    assert uri == f"journal:{tmp_path}/study.journal"
    copied(uri, proposer, rows[:5])
    copied(uri, proposer, rows)  # the same command, going on
    copied(uri, proposer, rows)
    check(JournalStorage(JournalFileBackend(str(tmp_path / "study.journal"))), rows)


@pytest.mark.parametrize(
    "broken",
    [
        lambda whole: whole[:-20],  # a process that died while it wrote
        lambda whole: whole[:-20] + b'{"op_code":4}\n' + whole[-60:],  # and another one that wrote on
        lambda whole: b"\0" * len(whole),  # a machine that lost its power
        lambda whole: json.dumps([1]).encode() + b"\n" + whole,
    ],
)
def test_a_journal_that_is_broken_is_put_aside_and_made_anew(tmp_path, broken):
    proposer, rows = searched()
    uri, journal, lines = study_uri(None, tmp_path), tmp_path / "study.journal", []
    copied(uri, proposer, rows[:9])
    held = broken(journal.read_bytes())
    journal.write_bytes(held)
    assert copied(uri, proposer, rows, lines.append)
    assert len(lines) == 1
    assert "study.journal was broken (" in lines[0]
    assert "moved to study.journal.broken-1, starting a new one" in lines[0]
    assert (tmp_path / "study.journal.broken-1").read_bytes() == held
    check(JournalStorage(JournalFileBackend(str(journal))), rows)


def test_a_journal_that_breaks_while_it_is_written_gets_all_rows_again(tmp_path, monkeypatch):
    proposer, rows = searched()
    journal, lines = tmp_path / "study.journal", []
    monkeypatch.setattr("raycomp.results.replica._RETRY_AFTER", 0.0)
    copy = StudyReplica(study_uri(None, tmp_path), "tiny", proposer.space, lines.append)
    for row in rows[:9]:
        copy.log(row)
    deadline = time.monotonic() + 20
    while not journal.exists() or rows[8].recipe_id not in journal.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)  # until that line ends
    journal.write_bytes(journal.read_bytes() + b"torn")
    for row in rows[9:]:
        copy.log(row)
    assert copy.close()
    check(JournalStorage(JournalFileBackend(str(journal))), rows)


@pytest.mark.parametrize("left", ["file", "link", "link to nothing"])
def test_a_lock_that_a_killed_process_left_is_removed(tmp_path, monkeypatch, left):
    monkeypatch.setattr("raycomp.search.study_replica._STALE_AFTER", 0.3)
    proposer, rows = searched()
    lock, lines = tmp_path / "study.journal.lock", []
    if left == "file":
        lock.touch()
    else:
        lock.symlink_to(tmp_path / ("study.journal" if left == "link" else "elsewhere"))
    began = time.monotonic()
    assert copied(study_uri(None, tmp_path), proposer, rows, lines.append)
    assert time.monotonic() - began < 10
    assert lines == [f"{lock} was left by a dead process: removed"]
    assert not lock.is_symlink()
    assert not lock.exists()
    check(JournalStorage(JournalFileBackend(str(tmp_path / "study.journal"))), rows)


def test_object_storage_has_no_journal_of_its_own():
    assert study_uri(None, located("s3://bucket/results?region=us-east-1")) is None
    assert study_uri("sqlite:///x.db", located("s3://bucket/results?region=us-east-1")) == "sqlite:///x.db"


@pytest.mark.slow
def test_a_sweep_is_in_postgresql_once():
    proposer, rows = searched()
    with postgres() as server:
        uri = f"{server}optuna"
        copied(uri, proposer, rows[:5])
        copied(uri, proposer, rows)
        check(RDBStorage(uri), rows)
    warnings: list[str] = []
    assert not copied(uri, proposer, rows, warnings.append)
    assert len(warnings) == 1, "the server is gone"
    assert SECRET not in warnings[0]
    assert "The same command fills it in later" in warnings[0]
