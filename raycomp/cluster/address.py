"""The Ray that a job joins, and whether one answers there: Ray itself would wait for minutes, with lines of its own."""

import os
import shlex
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from raycomp.errors import UserError, first_line

_SECONDS = 5.0  # for a connection, and again for a first answer
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2 begins, which gRPC and so all of Ray speaks (RFC 9113, section 3.4)."""
_SETTINGS = 4  # type of the frame that such a server begins with
_ALONE = "RAY_ADDRESS=local runs the job on this machine alone"


@dataclass(frozen=True)
class Address:
    """An address, and who says so."""

    text: str
    origin: str
    """The environment variable or the file."""
    advice: str
    """How to get rid of it."""

    def refused(self, reason: str) -> UserError:
        """What a person reads where that Ray cannot be joined."""
        return UserError(f"Ray at {self.text} (from {self.origin}): {reason}; {self.advice}")

    def check(self) -> None:
        """Return as soon as a Ray answers.

        Raises:
            UserError: for an address that is none, and where no Ray answers within seconds.
        """
        from ray._private import services

        scheme, _, place = self.text.rpartition("://")
        if scheme in ("http", "https"):
            raise self.refused(
                "an http address is for `ray job submit`; a script needs HOST:PORT, for example HOST:6379"
            )
        if scheme not in ("", "ray"):
            raise self.refused("not a Ray address; expected HOST:6379 or ray://HOST:10001")
        try:
            whole = place if scheme else services.canonicalize_bootstrap_address(place)  # localhost is this node's IP
            parts = urlsplit(f"//{whole}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or port is None:
            raise self.refused("not a Ray address; expected HOST:6379 or ray://HOST:10001")
        if reason := _silence(host, port):
            raise self.refused(f"no Ray answers there ({reason})")


def joined() -> Address | None:
    """The Ray that a job is going to join, in Ray's own order: RAY_ADDRESS, then the file of `ray start`; else None.

    Raises:
        UserError: for RAY_ADDRESS=auto where no Ray runs, and for a file that cannot be read.
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
    if given == "auto":  # prefers a Ray that runs to what the file says
        try:
            running = services.get_ray_address_from_environment(given, None)
        except ConnectionError:
            raise variable.refused("no Ray runs on this machine") from None
        if running != text:
            return Address(str(running), "RAY_ADDRESS=auto", variable.advice)
    ended = f"if that Ray has ended, `rm {shlex.quote(file)}`; {_ALONE}"
    return None if text is None else Address(text, file, ended)


def _silence(host: str, port: int) -> str:
    """Why no Ray answers, or nothing where one does."""
    try:
        with socket.create_connection((host, port), _SECONDS) as there:
            if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):  # not without its certificates
                return ""
            there.sendall(_HELLO)
            answer = there.recv(len(_HELLO))
    except (OSError, OverflowError, UnicodeError) as error:
        return (getattr(error, "strerror", None) or first_line(error)).lower()
    return "" if answer[3:4] == bytes([_SETTINGS]) else "another service does"
