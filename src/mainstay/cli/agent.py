"""Asking this host's processes, from the command line."""

from __future__ import annotations

import asyncio
from typing import Any

from mainstay.host.layout import lock_path
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcClient
from mainstay.model.errors import Permanent
from mainstay.settings import Settings

TIMEOUT_S = 5.0


def ask_agent(settings: Settings, method: str, params: Any = None) -> Any:
    """The agent's answer. Raises `Permanent` if there is no agent, `Transient` if it does not answer in time."""
    if holder(lock_path(settings, "agent")) is None:
        raise Permanent("the agent is not running", hint="Start the service with `mainstay up`.")
    return ask(settings, "agent", method, params)


def ask_control(settings: Settings, method: str, params: Any = None) -> Any:
    """The control process's answer. Raises as `ask_agent`."""
    if holder(lock_path(settings, "control")) is None:
        raise Permanent("the control process is not running", hint="Start the service with `mainstay up`.")
    return ask(settings, "control", method, params)


def ask(settings: Settings, name: str, method: str, params: Any = None) -> Any:
    """The answer of the process of this name, which should run. Raises `Transient` if it does not answer in time."""

    async def call() -> Any:
        client = RpcClient(settings.runtime / f"{name}.sock")
        client.start()
        try:
            return await client.call(method, params, timeout_s=TIMEOUT_S)
        finally:
            await client.stop()

    return asyncio.run(call())
