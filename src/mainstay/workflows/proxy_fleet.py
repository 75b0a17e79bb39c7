"""The proxy process, as the control plane sees it: specs go out, observations come in."""

from __future__ import annotations

from typing import Protocol

from mainstay.model.proxy import ProxySpec, ProxyStatus


class ProxyFleet(Protocol):
    """Every proxy of the service. `put_proxy` may be repeated; a spec of an older generation is ignored."""

    async def put_proxy(self, spec: ProxySpec) -> None:
        """Hands a spec to the proxy process, which is started if it does not run and has stored it when this returns.

        Raises `Transient` if it is away, `Permanent` if it refuses the spec.
        """

    def observe(self, proxy_id: str) -> ProxyStatus | None:
        """What the process last saw of the proxy, None when it has no such proxy. Raises `Transient` if it is away."""

    def last_seen(self, proxy_id: str) -> ProxyStatus | None:
        """As `observe`, but when the process is away, what it saw before: for showing, never for deciding."""
