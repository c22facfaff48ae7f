# SPDX-License-Identifier: Apache-2.0
"""Find the Ray address a job joins and check that Ray answers there; Ray itself would wait for minutes."""

import os
import shlex
import socket
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from raycomp.errors import UserError, first_line

_SECONDS = 5.0  # timeout for a connection, and again for the first response
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The client preface of HTTP/2, which gRPC and therefore Ray speak (RFC 9113, section 3.4)."""
_SETTINGS = 4  # type of the first frame an HTTP/2 server sends
_ALONE = "RAY_ADDRESS=local runs the job on this machine alone"


@dataclass(frozen=True)
class Address:
    """A Ray address and its source."""

    text: str
    origin: str
    """The environment variable or file that sets it."""
    advice: str
    """How to unset it."""

    def refused(self, reason: str) -> UserError:
        """Return the error for a Ray that cannot be joined."""
        return UserError(f"Ray at {self.text} (from {self.origin}): {reason}; {self.advice}")

    def check(self) -> None:
        """Check that Ray answers at the address.

        Raises:
            UserError: If the address is invalid, or no Ray answers within seconds.
        """
        from ray._private import services

        scheme, _, place = self.text.rpartition("://")
        if scheme in ("http", "https"):
            raise self.refused(
                "an http address is for `ray job submit`; a script needs HOST:PORT, for example HOST:6379"
            )
        host = port = None
        if scheme in ("", "ray"):
            with suppress(ValueError):
                location = place if scheme else services.canonicalize_bootstrap_address(place)  # resolves localhost
                parts = urlsplit(f"//{location}")
                host, port = parts.hostname, parts.port
        if not host or port is None:
            raise self.refused("not a Ray address; expected HOST:6379 or ray://HOST:10001")
        if reason := _why_silent(host, port):
            raise self.refused(f"no Ray answers there ({reason})")


def joined() -> Address | None:
    """Return the address a job joins: RAY_ADDRESS, then the file of `ray start`, as in Ray; None to start a local Ray.

    Raises:
        UserError: If RAY_ADDRESS is auto and no Ray runs, or the file cannot be read.
    """
    from ray._private import services, utils

    given = os.environ.get("RAY_ADDRESS", "")
    variable = Address(given, "the environment variable RAY_ADDRESS", f"`unset RAY_ADDRESS`, or {_ALONE}")
    if given == "local":
        return None
    if given not in ("", "auto"):
        return variable
    file = utils.get_ray_address_file(None)  # type: ignore[attr-defined]
    try:
        text = utils.read_ray_address()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable ({first_line(error)}); {_ALONE}") from None
    if given == "auto":  # prefers a running Ray to the file
        try:
            running = services.get_ray_address_from_environment(given, None)
        except ConnectionError:
            raise variable.refused("no Ray runs on this machine") from None
        if running != text:
            return Address(str(running), "RAY_ADDRESS=auto", variable.advice)
    ended = f"if that Ray has ended, `rm {shlex.quote(file)}`; {_ALONE}"
    return None if text is None else Address(text, file, ended)


def _why_silent(host: str, port: int) -> str:
    """Return why no Ray answers, or an empty string if one does."""
    try:
        with socket.create_connection((host, port), _SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):  # needs Ray's certificates
                return ""
            connection.sendall(_HELLO)
            answer = connection.recv(len(_HELLO))
    except (OSError, OverflowError, UnicodeError) as error:
        return (getattr(error, "strerror", None) or first_line(error)).lower()
    return "" if answer[3:4] == bytes([_SETTINGS]) else "another service does"
