"""Writers of the tour: what they were told is committed is what must be there after a failover."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise

from mainstay.cli.tour_engines import ClientErrors, TourSession

RETRY_S = 0.005
PAUSE_S = 0.002
RESUMED_TIMEOUT_S = 60.0


class Writers:
    """Sessions that insert numbered rows, each in a transaction of its own, and connect again whenever one breaks."""

    def __init__(self, connect: Callable[[], TourSession], count: int) -> None:
        self._connect = connect
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(count)]
        self.acknowledged: set[tuple[int, int]] = set()
        self._times: list[float] = []

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def await_acknowledged(self, after: float) -> float:
        """The time (monotonic) of the first acknowledgement later than `after`; raises `TimeoutError`."""
        deadline = time.monotonic() + RESUMED_TIMEOUT_S
        while time.monotonic() < deadline:
            with self._lock:
                later = [at for at in self._times if at > after]
            if later:
                return min(later)
            time.sleep(RETRY_S)
        raise TimeoutError(f"no commit was acknowledged within {RESUMED_TIMEOUT_S:.0f} s")

    def gap_s(self) -> float:
        """The longest time in which nobody was told that anything is committed."""
        with self._lock:
            times = sorted(self._times)
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def _write(self, writer: int) -> None:
        connection: TourSession | None = None
        number = 0
        while not self._ended.is_set():
            number += 1
            try:
                if connection is None:
                    connection = self._connect()
                connection.rows("INSERT INTO commits VALUES (%s, %s)", (writer, number))
            except ClientErrors:
                connection = None
                time.sleep(RETRY_S)
                continue
            with self._lock:
                self.acknowledged.add((writer, number))
                self._times.append(time.monotonic())
            time.sleep(PAUSE_S)
        if connection is not None:
            connection.close()
