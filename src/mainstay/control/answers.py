"""What a request that an SDK repeats is answered: the same as its first attempt, if that one changed something.

SDKs repeat a request whose answer did not reach them (a broken connection, a control process that was killed) under the
same `amz-sdk-invocation-id`. Carried out again it would meet its own doing: a second CreateX is told that X exists.
Guarantees: an answer is kept in the transaction whose outcome it tells, so there is one exactly if there is the other;
it is sealed, since some answers hold secrets; it is given only to the same access key, for the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import ClassVar

from mainstay.host.vault import Vault
from mainstay.model.records import Record, Scope
from mainstay.protocol.aws.message import HttpRequest, HttpResponse
from mainstay.store import Reader, Store, Transaction

KEPT_S = 900.0
"""Longer than an SDK goes on repeating one request."""

INVOCATION = re.compile(r"[0-9a-fA-F-]{16,64}")
ATTEMPT = re.compile(r"attempt=(\d{1,4})\b")


class AnsweredCall(Record, frozen=True, kw_only=True):
    """One answer. `digest` names the request, `at` is epoch seconds, `sealed_body` is for `Vault.unseal`."""

    KIND: ClassVar[str] = "answered-call"

    digest: str
    at: float
    status: int
    headers: tuple[tuple[str, str], ...]
    sealed_body: str

    def key(self) -> str:
        return self.digest


class Answers:
    """The answers that are kept, in the store."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def digest(self, request: HttpRequest, access_key_id: str) -> str:
        """What names this request, however often it is repeated; "" for one whose sender does not count."""
        invocation = request.header("amz-sdk-invocation-id") or ""
        if not INVOCATION.fullmatch(invocation):
            return ""
        parts = (access_key_id, invocation, request.method, request.path, request.query)
        head = "\0".join((*parts, request.header("x-amz-target") or "")).encode()
        return hashlib.sha256(head + b"\0" + request.body).hexdigest()

    def repeated(self, request: HttpRequest) -> bool:
        """Whether its sender says that this is not the first attempt."""
        found = ATTEMPT.search(request.header("amz-sdk-request") or "")
        return found is not None and int(found[1]) > 1

    def find(self, view: Reader, scope: Scope, digest: str, now: float) -> HttpResponse | None:
        """The answer of an earlier attempt that changed something."""
        kept = view.get(AnsweredCall, scope, digest)
        if kept is None or kept.at < now - KEPT_S:
            return None
        body = base64.b64decode(self._vault.unseal(kept.sealed_body, _context(digest)))
        return HttpResponse(status=kept.status, headers=kept.headers, body=body)

    def keep(self, tx: Transaction, scope: Scope, digest: str, response: HttpResponse, now: float) -> None:
        """Adds the answer to the transaction that it tells of."""
        sealed = self._vault.seal(base64.b64encode(response.body).decode(), _context(digest))
        kept = AnsweredCall(
            scope=scope, digest=digest, at=now, status=response.status, headers=response.headers, sealed_body=sealed
        )
        if tx.get(AnsweredCall, scope, digest) is None:
            tx.insert(kept)
        else:
            tx.put(kept)


def forget_answers(store: Store, now: float) -> None:
    """Removes what nobody will ask for any more."""
    with store.transaction() as tx:
        for kept in tx.scan(AnsweredCall):
            if kept.at < now - KEPT_S:
                tx.delete(kept)


def _context(digest: str) -> str:
    return f"answered-call/{digest}"
