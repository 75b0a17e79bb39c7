"""Why a port cannot be had."""

from __future__ import annotations

import os
import socket

import pytest

from mainstay.endpoint.listeners import holder_of, listen
from mainstay.model.errors import Permanent


@pytest.mark.parametrize("holder_address", ["0.0.0.0", "127.65.0.1", "::"])  # noqa: S104 - the very point of the test
def test_a_taken_port_names_who_has_it(holder_address: str) -> None:
    family = socket.AF_INET6 if ":" in holder_address else socket.AF_INET
    with socket.socket(family) as holder:
        holder.bind((holder_address, 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Permanent, match="Address already in use") as caught:
            listen("127.65.0.1", port)
    assert f"(process {os.getpid()}) listens there" in caught.value.hint


def test_a_port_taken_on_another_address_does_not_matter() -> None:
    with socket.create_server(("127.65.0.2", 0)) as other:
        port = other.getsockname()[1]
        assert holder_of(port, "127.65.0.1") is None
        listen("127.65.0.1", port).close()


def test_an_address_of_another_host_is_refused_with_a_hint() -> None:
    with pytest.raises(Permanent) as caught:
        listen("203.0.113.1", 5432)
    assert caught.value.hint == "This host does not have that address."
