"""Every limit of the endpoint process, and the one counter that enforces the limits on connections."""

from __future__ import annotations

from collections import Counter

CONNECTIONS_PER_ENDPOINT_MAX = 20_000
"""More clients than any engine takes; protects the other endpoints from one runaway application."""

FILES_RESERVED = 256
"""Descriptors kept for listeners, control sockets, logs and epoll itself."""

FILES_PER_CONNECTION = 2

ACCEPT_BACKLOG = 4096
"""Handshakes the kernel completes for us before we accept; it is cut to net.core.somaxconn."""

ACCEPTS_PER_WAKEUP = 64
"""So that a storm on one endpoint does not starve the others."""

ACCEPT_PAUSE_S = 0.1
"""Rest after the kernel had no descriptor or memory for one more connection."""

CONNECT_TIMEOUT_S = 5.0
CONNECT_RETRY_INTERVAL_S = 0.05

HOLD_S = 10.0
"""How long a new client waits for a primary before it is closed."""

BUFFER_BYTES = 128 * 1024
"""Most bytes held in memory per direction of one connection, and only while its reader is slower than its writer."""

LOG_INTERVAL_S = 10.0
"""The same complaint about the same endpoint is logged once in this time, with a count of the suppressed ones."""

COMMAND_TIMEOUT_S = 10.0
"""For nft and ss."""

BIND_RETRY_INTERVAL_S = 1.0
"""At restart a port may still be taken; it is tried again this often."""

ROUTES_MAX = 4096

DNS_TTL_S = 5
"""How long a resolver may keep a name, or that there is none: the same as on RDS."""

DNS_ZONE_TTL_S = 300
"""For what only a change of settings changes: SOA and NS."""

DNS_QUERY_BYTES_MAX = 512
"""A name and perhaps options; a larger query is refused. Bounds what one made to be expensive can cost."""

DNS_UDP_BYTES_MAX = 1232
"""Never fragmented on the way (RFC 9715); a longer answer is truncated and asked for again over TCP."""

DNS_UDP_BYTES_WITHOUT_EDNS = 512
"""RFC 1035, section 4.2.1."""

DNS_QUERIES_PER_S_MAX = 1000
"""A flood must leave the process time to accept database clients: a query costs 0.1 ms, the worst one 0.5 ms."""

DNS_TCP_CONNECTIONS_MAX = 64

DNS_TCP_IDLE_S = 10.0
"""Longest wait for a whole query, and for the client to take an answer (RFC 7766, section 6.2.3)."""

DNS_BIND_RETRY_INTERVAL_S = 5.0

PUMP_PROCESSES_MAX = 8
"""One for each core; more than these would be too much memory (one has 20 MB)."""

PUMP_BUSY_SHARE = 0.25
"""Of the time, in which the pumps run or wait for a core, summed: with less the endpoint's own thread carries
everything. On a quiet machine it is 9,000 small statements a second."""

PUMP_LOOK_INTERVAL_S = 0.25
"""How often is asked how busy the pumps are, while there is anything to carry."""

PUMP_IDLE_S = 60.0
"""After so long without being busy, processes take no more connections, and end as soon as they have none."""

PUMP_START_TIMEOUT_S = 30.0

PUMP_RETRY_S = 10.0
"""A pump that could not be started, or has died, gets a successor no earlier."""

PUMP_MOVED_AT_ONCE = 256
"""Pairs that the thread gives to processes in one go: each costs the event loop some 20 us."""

PUMP_END_TIMEOUT_S = 3.0
"""A pump process that has not carried out an order to end connections by then is killed, and they end with it."""


def pump_processes_for(cores: int) -> int:
    """How many processes that carry bytes there are to be at most. With one core they would only take it from each
    other.
    """
    return min(PUMP_PROCESSES_MAX, cores) if cores > 1 else 0


def connections_for(files: int) -> int:
    """How many connections fit into so many descriptors."""
    return max(0, files - FILES_RESERVED) // FILES_PER_CONNECTION


class Quota:
    """Counts connections per endpoint and in total."""

    def __init__(self, total_max: int, per_endpoint_max: int = CONNECTIONS_PER_ENDPOINT_MAX) -> None:
        self._total_max = total_max
        self._per_endpoint_max = per_endpoint_max
        self._open: Counter[str] = Counter()
        self._total = 0

    def take(self, endpoint_id: str) -> str | None:
        """Counts one more connection; the name of the limit when one stands in the way."""
        if self._total >= self._total_max:
            return "connections_total"
        if self._open[endpoint_id] >= self._per_endpoint_max:
            return "connections_per_endpoint"
        self._total += 1
        self._open[endpoint_id] += 1
        return None

    def give_back(self, endpoint_id: str) -> None:
        """One connection ended."""
        self._total -= 1
        self._open[endpoint_id] -= 1
        if not self._open[endpoint_id]:
            del self._open[endpoint_id]

    def open(self) -> dict[str, int]:
        """Connections per endpoint that has any."""
        return dict(self._open)


class LogGate:
    """Lets one log line per key through per interval and counts what it held back."""

    def __init__(self, interval_s: float = LOG_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def passes(self, event: str, endpoint_id: str, now_s: float) -> int | None:
        """None: keep quiet. Otherwise log, and mention so many suppressed ones."""
        at_s, held = self._last.get((event, endpoint_id), (-self._interval_s, 0))
        if now_s - at_s < self._interval_s:
            self._last[event, endpoint_id] = (at_s, held + 1)
            return None
        self._last[event, endpoint_id] = (now_s, 0)
        return held

    def forget(self, endpoint_id: str) -> None:
        """The endpoint is gone."""
        self._last = {key: value for key, value in self._last.items() if key[1] != endpoint_id}
