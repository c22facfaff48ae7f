# SPDX-License-Identifier: Apache-2.0
"""Where a job looks for Ray, and what a person reads where none answers; each within seconds."""

import socket
import threading
from contextlib import contextmanager

import pytest
import ray

from raycomp.cluster import address, connection
from raycomp.errors import UserError
from tests.helpers.services import free_port

HTTP2 = bytes([0, 0, 24, 4, 0, 0, 0, 0, 0])  # how Ray 2.60 answers, in its first nine bytes


@contextmanager
def answering(with_bytes: bytes):
    """A server on every address of this machine that answers so, once."""
    with socket.create_server(("", 0)) as server:

        def answer() -> None:
            there, _ = server.accept()
            there.recv(100)
            there.sendall(with_bytes)
            there.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The file of `ray start`, in a folder of the test's own; no `ray.init` is to be reached."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("127.0.0.1:{closed}", r"no Ray answers there \(connection refused\)"),
        ("ray://127.0.0.1:{closed}", r"no Ray answers there \(connection refused\)"),
        ("no-such-host.invalid:6379", r"no Ray answers there \(.*name.*\)"),
        ("http://127.0.0.1:8265", r"an http address is for `ray job submit`; a script needs HOST:PORT"),
        ("nonsense", "not a Ray address; expected HOST:6379"),
        ("127.0.0.1:port", "not a Ray address; expected HOST:6379"),
        ("http:/127.0.0.1:6379", "not a Ray address|no Ray answers there"),
        ("redis://127.0.0.1:6379", "not a Ray address; expected HOST:6379"),
    ],
)
def test_an_address_of_nothing_is_told_with_the_variable_that_gives_it(elsewhere, monkeypatch, given, reason):
    given = given.format(closed=free_port())
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(UserError, match=reason) as told:
        connection.connect()
    assert str(told.value).startswith(f"Ray at {given} (from the environment variable RAY_ADDRESS): ")
    assert "`unset RAY_ADDRESS`" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_an_ended_ray_left_is_told_with_how_to_remove_it(elsewhere, monkeypatch):
    elsewhere.write_text(f"127.0.0.1:{free_port()}\n")
    for variable in ("", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", frozenset)
        with pytest.raises(UserError, match=r"no Ray answers there \(connection refused\)") as told:
            connection.connect()
        assert f"(from {elsewhere})" in str(told.value)
        assert f"`rm {elsewhere}`; RAY_ADDRESS=local" in str(told.value)


@pytest.mark.parametrize(("held", "reason"), [(b"", "not a Ray address"), (b"\xff\xfe", "not readable")])
def test_a_file_that_holds_no_address(elsewhere, held, reason):
    elsewhere.write_bytes(held)
    with pytest.raises(UserError, match=reason) as told:
        connection.connect()
    assert str(elsewhere) in str(told.value)


def test_auto_where_no_ray_runs(elsewhere, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", frozenset)
    with pytest.raises(UserError, match="no Ray runs on this machine; `unset RAY_ADDRESS`"):
        connection.connect()


def test_another_service_on_the_port_is_not_waited_for(elsewhere, monkeypatch):
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(UserError, match=r"no Ray answers there \(another service does\)"):
            connection.connect()


def test_one_that_never_answers_is_not_waited_for(elsewhere, monkeypatch):
    monkeypatch.setattr(address, "_SECONDS", 0.2)
    with socket.create_server(("", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match=r"no Ray answers there \(timed out\)"):
            connection.connect()


def test_a_ray_that_does_not_let_the_job_in_is_told_on_one_line(elsewhere, monkeypatch):
    def refuses(*_, **__):
        raise ConnectionError("Failed to connect to Ray cluster") from RuntimeError("version mismatch:\n2.9 and 2.60")

    monkeypatch.setattr(ray, "init", refuses)
    with answering(HTTP2) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(UserError, match=r"version mismatch: 2\.9 and 2\.60; `unset RAY_ADDRESS`"):
            connection.connect()


@pytest.mark.parametrize("variable", ["", "local"])
def test_without_an_address_a_job_starts_ray_itself(elsewhere, monkeypatch, variable):
    monkeypatch.setenv("RAY_ADDRESS", variable)
    if variable:
        elsewhere.write_text("127.0.0.1:1")  # of no matter
    assert address.joined() is None
