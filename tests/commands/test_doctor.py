# SPDX-License-Identifier: Apache-2.0
"""`raycomp doctor` says what a sweep would meet, `raycomp clean` what lies in the caches."""

import json
import socket

import pytest
import typer

from raycomp.commands.doctor import clean_command, doctor_command
from raycomp.errors import UserError


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCOMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def found(capsys, **options):
    doctor_command(as_json=True, **options)
    return {one["what"]: one for one in json.loads(capsys.readouterr().out)}


def test_the_doctor_names_what_a_sweep_would_use(tmp_path, capsys):
    seen = found(capsys, results=str(tmp_path / "results"))
    assert "raycomp" in seen["versions"]["found"]
    assert seen["Ray"]["found"] == "a job starts its own on this machine"
    assert f"{tmp_path}/results/mlflow.db (default)" in seen["MLflow"]["found"]
    assert seen["model hub"]["found"] == "offline, by HF_HUB_OFFLINE"
    assert {one["state"] for one in seen.values()} <= {"ok", "note"}
    doctor_command(results=str(tmp_path))
    assert "This machine" in capsys.readouterr().out


def test_a_server_that_does_not_answer_is_noted_and_a_ray_that_does_not_is_a_problem(tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listening = found(capsys, results=str(tmp_path), tracking=f"http://127.0.0.1:{port}")["MLflow"]
    silent = found(capsys, results=str(tmp_path), tracking=f"http://name:secret@127.0.0.1:{port}")["MLflow"]
    assert (listening["state"], silent["state"]) == ("ok", "note")
    assert "secret" not in silent["found"]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(typer.Exit):
        doctor_command(results=str(tmp_path), as_json=True)
    ray = next(one for one in json.loads(capsys.readouterr().out) if one["what"] == "Ray")
    assert ray["state"] == "problem"
    assert "no Ray answers there" in ray["found"]


def test_caches_are_shown_and_emptied_only_when_told(tmp_path, capsys):
    cache = tmp_path / "cache"
    (cache / "evalset-1").mkdir(parents=True)
    (cache / "evalset-1" / "images.npy").write_bytes(bytes(3_000_000))
    (cache / "saliency-x.safetensors").write_bytes(bytes(1_500_000))
    with pytest.raises(UserError, match="--yes"):
        clean_command()
    text = capsys.readouterr().out
    assert "3.0" in text
    assert "1.5" in text
    (cache / "mine.txt").write_text("not raycomp's")
    clean_command(as_json=True)
    assert json.loads(capsys.readouterr().out)["emptied"] is False
    assert len(list(cache.iterdir())) == 3
    clean_command(yes=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["bytes"] == {
        "evaluation images, clean and corrupted": 3_000_000,
        "saliency scores": 1_500_000,
    }
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]
    clean_command(yes=True)  # there is nothing left to remove
    assert (cache / "mine.txt").is_file()
