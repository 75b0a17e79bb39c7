"""System calls of the proxy: the module in Python and its twin in C do the same."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest

from mainstay import compiled

MODULE = "mainstay.host.socket_calls"


def _in_python() -> Any:
    spec = spec_from_file_location("socket_calls_in_python", compiled.source(MODULE))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["python", "c"])
def calls(request: pytest.FixtureRequest) -> Any:
    if request.param == "python":
        return _in_python()
    module = import_module(MODULE)
    if str(module.__file__).endswith(".py"):
        pytest.skip("nothing is compiled here")
    return module


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_both_have_the_same_limits(calls: Any) -> None:
    mine = _in_python()
    names = ("RECEIVE_BYTES", "EVENTS_MAX")
    assert [getattr(calls, name) for name in names] == [getattr(mine, name) for name in names]


def test_what_has_come_is_received_and_nothing_and_the_end_are_told_apart(calls: Any, pair: Pair) -> None:
    ours, theirs = pair
    assert calls.receive(ours.fileno()) is None
    theirs.sendall(b"a\0b")
    assert calls.receive(ours.fileno()) == b"a\0b"
    theirs.sendall(bytes(calls.RECEIVE_BYTES + 1))
    assert [len(calls.receive(ours.fileno())) for _ in range(2)] == [calls.RECEIVE_BYTES, 1]
    theirs.close()
    assert calls.receive(ours.fileno()) == b""


def test_what_the_peer_takes_is_sent_and_of_more_it_is_told_how_much(calls: Any, pair: Pair) -> None:
    ours, theirs = pair
    for data in (b"a\0b", bytearray(b"a\0b")):
        assert calls.transmit(ours.fileno(), data) == 3 and theirs.recv(10) == b"a\0b"
    sent, data = 0, os.urandom(1 << 20)
    while count := calls.transmit(ours.fileno(), data[sent:]):
        sent += count
    assert 0 < sent < len(data)
    theirs.setblocking(False)
    got = b""
    while len(got) < sent:
        got += theirs.recv(1 << 20)
    assert got == data[:sent]


def test_errors_are_those_of_the_system(calls: Any, pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):  # and no signal
        calls.transmit(ours.fileno(), b"a")
    unknown: list[Callable[[], object]] = [lambda: calls.receive(9999), lambda: calls.transmit(9999, b"a")]
    for call in unknown:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    wrong: list[Callable[[], object]] = [
        calls.receive, lambda: calls.receive("a"), lambda: calls.transmit(1),
        lambda: calls.transmit(ours.fileno(), "a"), lambda: calls.looks_at(1)(),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(TypeError):
            call()


def test_a_reset_is_an_error(calls: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _address = listening.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        ours.setblocking(False)
        with ours, pytest.raises(ConnectionResetError):
            while calls.receive(ours.fileno()) is None:
                pass


@pytest.mark.parametrize("here", ["127.0.0.1", "::1"])
def test_who_comes_is_taken_in(calls: Any, here: str) -> None:
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with socket.create_server((here, 0), family=family) as listening:
        listening.setblocking(False)
        take = calls.takes_from(listening)
        assert take() is None
        for address in (here, here, "127.0.0.2", here) if family == socket.AF_INET else (here, here):
            with socket.socket(family) as theirs:
                theirs.bind((address, 0))
                theirs.connect(listening.getsockname())
                fd, told = take()
                assert told == address
                with socket.socket(fileno=fd) as ours:
                    assert not os.get_blocking(fd) and not os.get_inheritable(fd)
                    assert ours.getpeername() == theirs.getsockname()
        assert take() is None
        listening.close()
        with pytest.raises(OSError) as raised:
            take()
        assert raised.value.errno == errno.EBADF


def test_descriptors_that_have_run_out_are_an_error(calls: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        listening.setblocking(False)
        take = calls.takes_from(listening)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            with pytest.raises(OSError) as raised:
                take()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert raised.value.errno == errno.EMFILE
        fd, _address = take()
        os.close(fd)


def test_who_is_ready_is_told_with_all_events(calls: Any, pair: Pair) -> None:
    ours, theirs = pair
    with select.epoll() as epoll:
        epoll.register(ours.fileno(), select.EPOLLIN)
        look = calls.looks_at(epoll)
        assert look(False) == ()
        epoll.register(theirs.fileno(), select.EPOLLOUT)
        assert look(True) == (theirs.fileno(), select.EPOLLOUT)
        epoll.unregister(theirs.fileno())
        theirs.close()
        told = (ours.fileno(), select.EPOLLIN | select.EPOLLHUP)
        assert look(True) == told == look(False), "still so"


def test_no_more_are_told_of_at_once_than_the_limit(calls: Any) -> None:
    pairs = [socket.socketpair() for _ in range(calls.EVENTS_MAX + 3)]
    with select.epoll() as epoll:
        for one, _other in pairs:
            epoll.register(one.fileno(), select.EPOLLOUT)
        assert len(calls.looks_at(epoll)(True)) == 2 * calls.EVENTS_MAX
    for one, other in pairs:
        one.close()
        other.close()


def test_others_run_while_it_waits(calls: Any, pair: Pair) -> None:
    ours, theirs = pair
    with select.epoll() as epoll:
        epoll.register(ours.fileno(), select.EPOLLIN)
        timer = threading.Timer(0.05, theirs.sendall, (b"a",))
        timer.start()
        assert len(calls.looks_at(epoll)(True)) == 2
        timer.join()


def test_a_signal_is_handled_at_once(calls: Any) -> None:
    """However late this thread is run: what is sent before it waits is not heard."""

    class Heard(Exception):
        """By the handler."""

    waiting, heard = threading.Event(), threading.Event()

    def hear(_number: int, _frame: object) -> None:
        if waiting.is_set():
            waiting.clear()
            raise Heard

    def send(to: int) -> None:
        while not heard.wait(0.05):
            signal.pthread_kill(to, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, hear)
    sending = threading.Thread(target=send, args=(threading.get_ident(),))
    try:
        sending.start()
        with select.epoll() as epoll, pytest.raises(Heard):
            waiting.set()
            calls.looks_at(epoll)(True)
    finally:
        heard.set()
        sending.join()
        signal.signal(signal.SIGUSR1, before)
