"""The AWS front: one request in, one answer out, in this order and no other:

    identify -> verify the signature -> parse -> authorise -> handle -> serialise -> commit

Guarantees: nothing is looked at for a caller whose signature is wrong; a handler runs in one store transaction that is
committed before its answer is sent; a request that an SDK repeats is not carried out twice (`answers.py`); whatever
goes wrong becomes an error in the caller's own protocol, never HTTP 5xx for something that repeating cannot heal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec
import structlog

from mainstay.control.answers import Answers
from mainstay.host.aws_models import MODELS
from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError, MainstayError, Transient
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.protocol.aws.identify import Dialect, Identified, identify, read_dialect
from mainstay.protocol.aws.message import HttpRequest, HttpResponse
from mainstay.protocol.aws.parse import parse
from mainstay.protocol.aws.serialize import serialize_error, serialize_result
from mainstay.protocol.aws.sigv4 import Signature, SigningRules, read_signature, verify
from mainstay.services.iam.authorization import authorize, request_context_of
from mainstay.services.iam.principals import Credentials, note_use, resolve
from mainstay.services.operations import Call, Operation, Operations
from mainstay.settings import Settings
from mainstay.store import Store

REQUEST_ID_BYTES = 16
log = structlog.get_logger()


class Origin(msgspec.Struct, frozen=True):
    """What is known of a request but for its content. `secure`: it came over TLS."""

    source_ip: str
    secure: bool
    request_id: str


class Front:
    """Answers AWS API requests. `committed` is called after every call that may have added a job."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        vault: Vault,
        clock: Clock,
        randomness: Randomness,
        services: tuple[Operations, ...],
        collaborators: Mapping[type, Any],
        committed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._vault = vault
        self._clock = clock
        self._randomness = randomness
        self._answers = Answers(vault)
        self._built = {operations.service: operations.built for operations in services}
        self._collaborators = collaborators
        self._committed = committed

    async def answer(self, request: HttpRequest, source_ip: str, *, secure: bool) -> HttpResponse:
        """The answer to one request; never raises. `secure`: it came over TLS."""
        request_id = str(UUID(bytes=self._randomness.token_bytes(REQUEST_ID_BYTES)))
        dialect = read_dialect(request, MODELS)
        try:
            return await self._answer(request, dialect, Origin(source_ip, secure, request_id))
        except ApiError as error:
            refusal = error
        except Transient as error:
            log.warning("front.unavailable", error=error.message)
            refusal = ApiError("ServiceUnavailable", f"{error.message} {error.hint}".strip(), status=503)
        except MainstayError as error:
            log.error("front.refused", error=error.message)
            refusal = ApiError("InvalidParameterCombination", f"{error.message} {error.hint}".strip())
        except Exception:  # the outermost loop of a request: the caller must get an answer, we the traceback
            log.exception("front.failed", request_id=request_id)
            refusal = ApiError("InternalFailure", "An internal error has occurred. See the control log.", status=500)
        model = None if dialect.service is None else MODELS.service(dialect.service)
        return serialize_error(model, dialect.protocol, refusal, request_id)

    async def _answer(self, request: HttpRequest, dialect: Dialect, origin: Origin) -> HttpResponse:
        now = self._clock.wall()
        signature, credentials = self._authenticate(request, dialect, now)
        wanted = identify(request, MODELS)
        operation = self._operation(wanted)
        model = MODELS.operation(wanted.service, wanted.operation)
        parsed = parse(model, wanted.protocol, request)
        row = MODELS.rows[wanted.service]
        region = GLOBAL_REGION if row.global_region else signature.region

        def call_in(tx: Any) -> Call:
            return Call(
                caller=credentials.caller,
                scope=Scope(self._settings.account_id, region),
                tx=tx,
                clock=self._clock,
                randomness=self._randomness,
                settings=self._settings,
                collaborators=self._collaborators,
                source_ip=origin.source_ip,
                secure_transport=origin.secure,
                user_agent=request.header("user-agent") or "",
                referer=request.header("referer") or "",
                requested_region=signature.region if row.regional_endpoints else row.global_region,
                request_id=origin.request_id,
            )

        def respond(result: dict[str, Any] | None) -> HttpResponse:
            return serialize_result(model, wanted.protocol, result, origin.request_id)

        digest = self._answers.digest(request, signature.access_key_id)
        if digest and self._answers.repeated(request):
            with self._store.read() as view:
                kept = self._answers.find(view, Scope(self._settings.account_id, region), digest, now)
            if kept is not None:
                log.warning("front.repeated", operation=operation.name, request_id=origin.request_id)
                return kept
        return await self._handle(operation, call_in, parsed, signature, respond, digest)

    def _authenticate(self, request: HttpRequest, dialect: Dialect, now: float) -> tuple[Signature, Credentials]:
        row = None if dialect.service is None else MODELS.rows[dialect.service]
        signing_name = dialect.signing_name or (row.signing_name if row is not None else "")
        rules = SigningRules(service=signing_name, protocol=dialect.protocol, regions=self._regions(dialect))
        signature = read_signature(request, now, rules)
        with self._store.read() as view:
            credentials = resolve(
                view,
                self._vault,
                self._clock,
                signature.access_key_id,
                signature.session_token,
                Scope(self._settings.account_id, GLOBAL_REGION),
            )
        verify(request, signature, credentials.secret_access_key, now)
        return signature, credentials

    def _regions(self, dialect: Dialect) -> frozenset[str]:
        row = None if dialect.service is None else MODELS.rows[dialect.service]
        regions = set(self._settings.regions)
        return frozenset(regions | {row.global_region} if row is not None and row.global_region else regions)

    def _operation(self, wanted: Identified) -> Operation:
        operation = self._built.get(wanted.service, {}).get(wanted.operation)
        if operation is None:
            raise ApiError(
                "InvalidAction",
                f"{wanted.service}:{wanted.operation} is not built in this version of Mainstay."
                " docs/operations.md lists what is.",
            )
        return operation

    async def _handle(
        self,
        operation: Operation,
        call_in: Callable[[Any], Call],
        parsed: dict[str, Any],
        signature: Signature,
        respond: Callable[[dict[str, Any] | None], HttpResponse],
        digest: str,
    ) -> HttpResponse:
        if not operation.opens_transaction:
            call = call_in(self._store.view())
            authorize(call.tx, call.caller, operation.demands(call, parsed), request_context_of(call))
            outcome = operation.handler(call, parsed)
            return respond(await outcome if inspect.isawaitable(outcome) else outcome)
        with self._store.transaction() as tx:
            call = call_in(tx)
            authorize(tx, call.caller, operation.demands(call, parsed), request_context_of(call))
            changes = tx.changes
            result = operation.handler(call, parsed)
            if inspect.isawaitable(result):
                raise AssertionError(f"{operation.name} must be registered with opens_transaction=False")
            response = respond(result)
            if digest and tx.changes != changes:
                self._answers.keep(tx, call.scope, digest, response, self._clock.wall())
            note_use(tx, call.caller, signature.service, signature.region, self._clock.wall())
        self._committed()
        return response
