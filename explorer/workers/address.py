"""The form of a scheduler's address, which is checked before anybody is asked for."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"(tcp|tls)://([^\s/:@]+|\[[0-9a-fA-F:]+\]):\d{1,5}")


def check_address(address: str) -> None:
    """Raise ValueError unless `address` has the form of a scheduler's."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"--cluster {address!r}: no address of a scheduler; allowed: tcp://host:port, tls://host:port")
