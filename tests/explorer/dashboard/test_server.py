from __future__ import annotations

import pytest

pytest.importorskip("dash", reason="needs the extra `dashboard`")

from explorer.dashboard.server import listening, serving


@pytest.mark.parametrize("address", ["", "0", "0.0.0.0", "0x0", "::", "::0", "::ffff:0.0.0.0"])
def test_an_address_that_is_every_network_is_refused_however_it_is_written(address: str) -> None:
    with pytest.raises(ValueError, match="every network"), serving([], lambda trace: None, address, 0):
        pass


@pytest.mark.parametrize("address", ["*", "unix:///tmp/socket", "127.0.0.1:80"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(ValueError, match="allowed: one"), serving([], lambda trace: None, address, 0):
        pass


def test_a_port_in_use_is_refused_with_what_is_allowed() -> None:
    with listening("127.0.0.1", 0) as ear:
        port = ear.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: .*a free port"):
            listening("127.0.0.1", port)
