"""The address of a scheduler, which is checked before anybody is asked for: its form, and that its host is known."""

from __future__ import annotations

import re
import socket

_ADDRESS = re.compile(r"(?:tcp|tls)://([^\s/:@]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", re.ASCII)


def check_address(address: str) -> None:
    """Raise ValueError unless `address` has the form of a scheduler's and leads to a computer."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 1 <= int(found[2]) < 1 << 16:
        raise ValueError(
            f"--cluster {address!r}: no address of a scheduler; allowed: tcp://host:port, tls://host:port, "
            "ports from 1 to 65535"
        )
    try:
        socket.getaddrinfo(found[1].strip("[]"), int(found[2]), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"--cluster {address}: unknown host ({error}); allowed: one that this computer finds"
        ) from None
