"""An event loop whose time is a `SimulatedClock`: when nothing can run, time jumps to the next timer.

Guarantees: nothing waits in real time; threads are not used (`run_in_executor` runs at once), so a run depends on its
seed alone.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

from mainstay.host.clock import SimulatedClock

T = TypeVar("T")
TURN_S = 1e-9
"""What a turn of the loop takes: without it, who waits for the last bit of a rounded number would wait for ever."""


class Killed(BaseException):
    """The process that this code runs in has been killed: nothing of ours may catch it."""


class Lifetime:
    """One life of a simulated process: from its start to its kill. Its tasks are those started within it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in order, so that a run depends on its seed alone

    def check(self) -> None:
        """Raises `Killed` in what still runs of a dead process, before it can touch the world."""
        if not self.alive:
            raise Killed(self.name)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task that belongs to this process, and whose own tasks do."""
        context = Context()
        context.run(_OWNER.set, self)
        return asyncio.get_running_loop().create_task(coroutine, context=context)

    def kill(self) -> None:
        """No more effects from now on; the tasks end as soon as the loop turns."""
        self.alive = False
        for task in list(self.tasks):
            asyncio.get_running_loop().call_soon(task.cancel)


_OWNER: ContextVar[Lifetime | None] = ContextVar("owner", default=None)
_OWNERS: dict[int, Lifetime] = {}
"""By id of the task: one that is being thrown away cannot be asked any more."""


def unowned() -> Context:
    """A context for what belongs to none of our processes, whoever sets it off."""
    context = Context()
    context.run(_OWNER.set, None)
    return context


class _InstantSelector(selectors.SelectSelector):
    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing will ever happen: every task waits for another one")
        if not ready and timeout is not None:
            self._clock.advance(timeout or TURN_S)
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._simulated = clock
        self.unexpected: list[BaseException] = []
        super().__init__(_InstantSelector(clock))
        self.set_task_factory(_start_task)
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._simulated.monotonic()

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        except BaseException as error:
            future.set_exception(error)
        return future

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        owner = _OWNERS.get(id(context.get("future")))
        if owner is not None and not owner.alive:
            return  # nobody of a dead process can ask for the outcome
        if not isinstance(error, Killed):
            self.unexpected.append(error or AssertionError(context["message"]))


def _start_task(loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None) -> Any:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
    owner = context.get(_OWNER) if context is not None and _OWNER in context else _OWNER.get()
    if owner is not None:
        _OWNERS[id(task)] = owner
        owner.tasks[task] = None
        task.add_done_callback(lambda done: owner.tasks.pop(done, None))
    return task


def simulate(clock: SimulatedClock, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` to its end in simulated time. An exception that any task left behind is raised here."""
    loop = SimulatedLoop(clock)
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main())
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(_gather(left))
        asyncio.set_event_loop(None)
        loop.close()
    if loop.unexpected:
        raise loop.unexpected[0]
    return result


async def _gather(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        try:
            await task
        except (Exception, asyncio.CancelledError, Killed):  # noqa: S112 - they are being swept away
            continue
