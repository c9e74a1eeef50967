from __future__ import annotations

import pytest

pytest.importorskip("dash", reason="needs the extra `dashboard`")

from explorer.dashboard.server import listening


def test_a_port_in_use_is_refused_with_what_is_allowed() -> None:
    with listening("127.0.0.1", 0) as ear:
        port = ear.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: .*a free port"):
            listening("127.0.0.1", port)


def test_an_address_of_another_computer_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"--host 192\.0\.2\.1 .*: Cannot assign requested address; "
    ):  # of no computer, RFC 5737
        listening("192.0.2.1", 0)
