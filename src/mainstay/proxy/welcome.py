"""What a client is told of the engine's parameters when it is let in, known from connections of its pool. Pure."""

from __future__ import annotations

from typing import Final

from mainstay.protocol.postgres import wire

APPLICATION_NAME: Final = "application_name"
APPLICATION_NAME_MAX: Final = 63
"""The engine cuts it there (NAMEDATALEN)."""

KEPT_MAX: Final = 64
"""Combinations of settings that clients bring whose outcome is kept."""

_Settings = tuple[tuple[str, str], ...]


class Welcome:
    """ParameterStatus messages for the clients of one pool, by the settings that they bring. The application's name,
    which has no part in what else is told, is kept out of it.
    """

    def __init__(self) -> None:
        self._told: dict[_Settings, bytes] = {}
        self._name = ""
        self._with_name: dict[_Settings, bytes] = {}
        """What has been answered to clients since any of that was learnt."""

    def learn(self, parameters: dict[str, str]) -> None:
        """What the engine reports to a session that brings no settings. Other settings may have another outcome now if
        that has changed: other defaults, or another version of the engine.
        """
        told, name = _statuses(parameters), parameters.get(APPLICATION_NAME, "")
        if told != self._told.get(()):
            self._told = {(): told}
            self._with_name.clear()
        if name != self._name:
            self._name = name
            self._with_name.clear()

    def learn_with(self, asked: dict[str, str], parameters: dict[str, str]) -> bytes:
        """What it reports to one that brings these; returns the messages, complete."""
        told = _statuses(parameters)
        if () in self._told and _plain(asked):
            if len(self._told) > KEPT_MAX:
                del self._told[list(self._told)[1]]  # the oldest after the first
            self._told[_others(asked)] = told
            self._with_name.clear()
        return told + wire.parameter_status(APPLICATION_NAME, parameters.get(APPLICATION_NAME, ""))

    def told(self, asked: dict[str, str]) -> bytes:
        """The messages for a client that brings these settings; b"" if only a connection that is given them knows."""
        brought = tuple([one for one in asked.items()])
        found = self._with_name.get(brought)
        if found is None:
            found = self._put_together(asked)
            if len(self._with_name) >= KEPT_MAX:
                self._with_name.clear()
            self._with_name[brought] = found
        return found

    def _put_together(self, asked: dict[str, str]) -> bytes:
        if not _plain(asked):
            return b""
        told = self._told.get(_others(asked) if asked else ())
        if told is None:
            return b""
        name = asked.get(APPLICATION_NAME, self._name)
        return told + wire.parameter_status(APPLICATION_NAME, name[:APPLICATION_NAME_MAX])


def _plain(asked: dict[str, str]) -> bool:
    """Whether the engine leaves the application's name as it is."""
    name = asked.get(APPLICATION_NAME, "")
    return name.isascii() and name.isprintable()


def _others(asked: dict[str, str]) -> _Settings:
    return tuple([one for one in asked.items() if one[0] != APPLICATION_NAME])


def _statuses(parameters: dict[str, str]) -> bytes:
    """One message for each parameter but the application's name."""
    return b"".join(
        [wire.parameter_status(name, value) for name, value in parameters.items() if name != APPLICATION_NAME]
    )
