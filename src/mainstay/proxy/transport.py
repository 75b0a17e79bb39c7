"""The two sides of a connection: what a stream calls, and what is called of it. `streams.py` has the real ones."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """What a stream calls."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come; never none."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The last call: nothing comes any more."""

    def pause_writing(self) -> None:
        """The peer does not take what is written as fast as it is."""

    def resume_writing(self) -> None:
        """It has taken it."""


class DirectReceiver:
    """A receiver that is compiled together with the streams, and is called by them without Python's detours."""

    def data_received(self, data: bytes) -> None:
        """See `Receiver`."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """See `Receiver`."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """See `Receiver`."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """See `Receiver`."""
        raise NotImplementedError


class Transport(Protocol):
    """What sessions and connections need of a stream."""

    def write(self, data: bytes) -> None:
        """Sends, now or as soon as the peer takes it."""

    def close(self) -> None:
        """Ends the connection when everything is sent."""

    def abort(self) -> None:
        """Ends the connection."""

    def is_closing(self) -> bool:
        """Whether it ends or has ended."""

    def is_reading(self) -> bool:
        """Whether bytes that come are received now."""

    def pause_reading(self) -> None:
        """Leaves what comes with the peer."""

    def resume_reading(self) -> None:
        """Receives again."""

    def peer(self) -> tuple[str, int] | None:
        """Address and port of the other end; None if it has gone or has none."""


class Nowhere:
    """The transport of what is not connected yet."""

    def write(self, data: bytes) -> None:
        """See `Transport`."""

    def close(self) -> None:
        """See `Transport`."""

    def abort(self) -> None:
        """See `Transport`."""

    def is_closing(self) -> bool:
        """See `Transport`."""
        return True

    def is_reading(self) -> bool:
        """See `Transport`."""
        return False

    def pause_reading(self) -> None:
        """See `Transport`."""

    def resume_reading(self) -> None:
        """See `Transport`."""

    def peer(self) -> tuple[str, int] | None:
        """See `Transport`."""
        return None


NOWHERE = Nowhere()
