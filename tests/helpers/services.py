# SPDX-License-Identifier: Apache-2.0
"""Real servers on loopback for tests: S3 (moto), PostgreSQL, MLflow. Each is ended with what started it."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

SECRET = "tests-Only-5ecret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: "subprocess.Popen[bytes] | None" = None, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process is None or process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.2)


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    """An S3 server with a bucket `sweeps`; yields the environment that leads to it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/sweeps", method="PUT")
        urllib.request.urlopen(request).close()
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.terminate()
        server.wait()


def _postgres_bin() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places or not (places[-1] / "postgres").exists():
        pytest.skip("needs a PostgreSQL server (Debian's package postgresql), which is not here")
    return places[-1]


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server that asks for a password; yields its URI, password included, of a database to append."""
    programs = _postgres_bin()
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    shutil.chown(folder, user)
    port = free_port()
    (folder / "password").write_text(SECRET)
    (folder / "password").chmod(0o644)
    options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    initdb: list[str | Path] = [programs / "initdb", "-D", folder / "data", "-U", "raycomp", "-A", "scram-sha-256"]
    subprocess.run([*initdb, f"--pwfile={folder / 'password'}", "--no-sync"], check=True, **options)
    start: list[str | Path] = [
        programs / "postgres",
        "-D",
        folder / "data",
        "-p",
        str(port),
        "-k",
        folder,
        "-h",
        "127.0.0.1",
    ]
    server: subprocess.Popen[bytes] = subprocess.Popen(start, **options)
    try:
        wait_for(port, server)
        where = f"127.0.0.1:{port}/"
        with psycopg.connect(f"postgresql://raycomp:{SECRET}@{where}postgres", autocommit=True) as connection:
            for name in ("mlflow", "optuna"):  # one each: both keep their schema's version in the same table
                connection.execute(f"CREATE DATABASE {name}".encode())
        yield f"postgresql+psycopg://raycomp:{SECRET}@{where}"
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for clients
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(store: str, artifacts: Path, port: int | None = None) -> Iterator[str]:
    """An MLflow server over a store; yields its URI."""
    port = port or free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    command = [sys.executable, "-m", "mlflow", "server", *options]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(artifacts)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        end_group(server)


def end_group(process: "subprocess.Popen[bytes]", how: int = 9) -> None:
    """End a server and the workers it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait()
