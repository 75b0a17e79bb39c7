"""Every rule of a signature, one broken at a time, in the words of each protocol.

Right signatures are checked against botocore in `tests/property/test_aws_codecs.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import canonical, limits
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.sigv4 import Signature, SigningRules, read_signature, verify
from mainstay.protocol.aws.vocabulary import Protocol

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
MOMENT = datetime(2026, 1, 1, 0, 10, 0, tzinfo=UTC)
NOW = MOMENT.timestamp()
STAMP = "20260101T001000Z"
SCOPE = "20260101/eu-central-1/rds/aws4_request"
Headers = dict[str, str]


def rules(protocol: Protocol = "query", service: str = "rds") -> SigningRules:
    return SigningRules(service=service, protocol=protocol, regions=frozenset({"eu-central-1", "us-east-1"}))


def signed(
    *,
    scope: str = SCOPE,
    stamp: str = STAMP,
    headers: Headers | None = None,
    names: str = "",
    query: str = "",
    extra: tuple[tuple[str, str], ...] = (),
    body: bytes = b"Action=X",
) -> HttpRequest:
    """A header-signed request with a right signature over whatever is given. `extra` headers are added unsigned."""

    given = {"host": "rds.example", "x-amz-date": stamp} if headers is None else headers
    pairs = sorted(given.items())
    date, region, service, _ = scope.split("/")
    text = canonical.canonical_request(
        method="POST",
        path="/",
        query=canonical.canonical_queries(query)[0],
        headers=pairs,
        payload_hash=sha256(body).hexdigest(),
    )
    key = canonical.signing_key(SECRET, date, region, service)
    signature = canonical.sign(key, canonical.string_to_sign(stamp, scope, text))
    signed_names = names or ";".join(name for name, _ in pairs)
    value = f"AWS4-HMAC-SHA256 Credential=AK/{scope}, SignedHeaders={signed_names}, Signature={signature}"
    return HttpRequest(
        method="POST",
        path="/",
        query=query,
        headers=(*given.items(), *extra, ("authorization", value)),
        body=body,
    )


def presigned(
    *, expires: str = "900", host: str = "db.example:5432", scope: str = SCOPE, extra: str = ""
) -> HttpRequest:
    query = (
        f"Action=connect&DBUser=u&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote('AK/' + scope, safe='')}"
        f"&X-Amz-Date={STAMP}&X-Amz-Expires={expires}&X-Amz-SignedHeaders=host{extra}"
    )
    date, region, service, _ = scope.split("/")
    text = canonical.canonical_request(
        method="GET",
        path="/",
        query=canonical.canonical_queries(query)[0],
        headers=[("host", host)],
        payload_hash="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )
    signature = canonical.sign(
        canonical.signing_key(SECRET, date, region, service), canonical.string_to_sign(STAMP, scope, text)
    )
    query += f"&X-Amz-Signature={signature}"
    return HttpRequest(method="GET", path="/", query=query, headers=(("host", host),), body=b"")


def changed(request: HttpRequest, **fields: Any) -> HttpRequest:
    return HttpRequest(**{**{name: getattr(request, name) for name in request.__struct_fields__}, **fields})


def with_authorization(value: str) -> HttpRequest:
    return changed(signed(), headers=(("host", "h"), ("x-amz-date", STAMP), ("authorization", value)))


def accepted(request: HttpRequest, now: float = NOW, use: SigningRules | None = None) -> Signature:
    signature = read_signature(request, now, use or rules())
    verify(request, signature, SECRET, now)
    return signature


def refused(request: HttpRequest, now: float = NOW, use: SigningRules | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        accepted(request, now, use)
    return caught.value


class TestAccepted:
    def test_a_header_signature(self) -> None:
        signature = accepted(signed())
        assert (signature.access_key_id, signature.date, signature.region) == ("AK", "20260101", "eu-central-1")
        assert (signature.signed_headers, signature.presigned) == (("host", "x-amz-date"), False)
        assert (signature.signed_at, signature.expires_s, signature.session_token) == (NOW, None, None)

    def test_a_session_token_is_handed_on(self) -> None:
        headers = {"host": "h", "x-amz-date": STAMP, "x-amz-security-token": "tok"}
        assert accepted(signed(headers=headers)).session_token == "tok"
        assert accepted(presigned(extra="&X-Amz-Security-Token=tok%2B")).session_token == "tok+"

    @pytest.mark.parametrize("date", [STAMP, format_datetime(MOMENT, usegmt=True)])
    def test_the_date_header_serves_instead_of_x_amz_date(self, date: str) -> None:
        accepted(signed(headers={"host": "h", "date": date}))

    def test_a_query_that_is_not_in_canonical_encoding(self) -> None:
        """Signed in canonical encoding, sent otherwise: AWS accepts what the parameters mean."""
        request = signed(query="a=x%20y&b=%2F")
        for sent in ("b=/&a=x+y", "a=x%20y&b=%2f"):
            accepted(changed(request, query=sent))
        assert refused(changed(request, query="a=xy&b=%2F")).shape == "SignatureDoesNotMatch"

    def test_a_database_token_is_a_presigned_get(self) -> None:
        scope = "20260101/eu-central-1/rds-db/aws4_request"
        use = rules(service="rds-db")
        signature = accepted(presigned(scope=scope), use=use)
        assert (signature.presigned, signature.expires_s, signature.service) == (True, 900, "rds-db")
        other_port = changed(presigned(scope=scope), headers=(("host", "db.example:5433"),))
        assert refused(other_port, use=use).shape == "SignatureDoesNotMatch"

    def test_a_matching_content_hash(self) -> None:

        headers = {"host": "h", "x-amz-date": STAMP, "x-amz-content-sha256": sha256(b"Action=X").hexdigest()}
        accepted(signed(headers=headers))


class TestTampering:
    @pytest.mark.parametrize(
        "fields",
        [{"method": "GET"}, {"path": "/x"}, {"query": "a=b"}, {"body": b"Action=Y"}],
        ids=["method", "path", "query", "body"],
    )
    def test_every_part_is_covered(self, fields: dict[str, Any]) -> None:
        assert refused(changed(signed(), **fields)).shape == "SignatureDoesNotMatch"

    def test_a_signed_header_is_covered(self) -> None:
        request = signed()
        headers = tuple((name, "evil" if name == "host" else value) for name, value in request.headers)
        assert refused(changed(request, headers=headers)).shape == "SignatureDoesNotMatch"

    def test_another_secret_does_not_match(self) -> None:
        request = signed()
        with pytest.raises(ApiError, match="SignatureDoesNotMatch"):
            verify(request, read_signature(request, NOW, rules()), "other", NOW)

    @pytest.mark.parametrize("declared", ["UNSIGNED-PAYLOAD", "0" * 64, "ü"])
    def test_a_content_hash_must_be_that_of_the_body(self, declared: str) -> None:
        headers = {"host": "h", "x-amz-date": STAMP, "x-amz-content-sha256": declared}
        assert "x-amz-content-sha256" in refused(signed(headers=headers)).message

    @pytest.mark.parametrize("header", [("x-amz-target", "T.O"), ("x-amz-security-token", "t")])
    def test_amz_headers_must_be_signed(self, header: tuple[str, str]) -> None:
        error = refused(signed(extra=(header,)))
        assert (error.shape, header[0] in error.message) == ("SignatureDoesNotMatch", True)

    def test_trace_headers_of_proxies_need_not_be_signed(self) -> None:
        accepted(signed(extra=(("x-amzn-trace-id", "1"), ("user-agent", "a"), ("user-agent", "b"))))

    def test_host_and_date_must_be_signed(self) -> None:
        assert "host" in refused(signed(headers={"x-amz-date": STAMP}, extra=(("host", "h"),))).message
        assert "date" in refused(signed(headers={"host": "h"}, extra=(("date", STAMP),))).message

    def test_a_signed_header_must_be_present(self) -> None:
        assert "'b'" in refused(signed(names="b;host;x-amz-date")).message

    @pytest.mark.parametrize("name", ["host", "x-amz-date", "authorization"])
    def test_headers_that_count_are_given_once(self, name: str) -> None:
        request = signed()
        assert refused(changed(request, headers=(*request.headers, (name, "again")))).shape == "IncompleteSignature"

    def test_query_parameters_of_the_signature_are_given_once(self) -> None:
        request = presigned()
        assert refused(changed(request, query=request.query + "&X-Amz-Date=1")).shape == "IncompleteSignature"

    def test_two_signatures_are_refused(self) -> None:
        request = presigned()
        both = changed(request, headers=(*request.headers, ("authorization", "AWS4-HMAC-SHA256 x")))
        assert refused(both).shape == "IncompleteSignature"


class TestForm:
    @pytest.mark.parametrize(
        "value",
        [
            "",
            "Basic abc",
            "AWS4-HMAC-SHA512 Credential=a",
            "AWS4-HMAC-SHA256",
            f"AWS4-HMAC-SHA256 Credential=AK/{SCOPE}, SignedHeaders=host",
            f"AWS4-HMAC-SHA256 Credential=AK/{SCOPE}, Credential=AK/{SCOPE}, SignedHeaders=host, Signature={'0' * 64}",
            f"AWS4-HMAC-SHA256 Credential=AK/20260101/rds, SignedHeaders=host, Signature={'0' * 64}",
            f"AWS4-HMAC-SHA256 Credential=/{SCOPE}, SignedHeaders=host, Signature={'0' * 64}",
            f"AWS4-HMAC-SHA256 Credential=AK/{SCOPE}, SignedHeaders=Host;x-amz-date, Signature={'0' * 64}",
            f"AWS4-HMAC-SHA256 Credential=AK/{SCOPE}, SignedHeaders=host;host, Signature={'0' * 64}",
        ],
    )
    def test_headers_that_are_not_a_signature(self, value: str) -> None:
        assert refused(with_authorization(value)).shape == "IncompleteSignature"

    @pytest.mark.parametrize("digits", ["0" * 63, "0" * 65, "G" * 64, "A" * 64])
    def test_a_signature_has_64_hexadecimal_digits(self, digits: str) -> None:
        value = f"AWS4-HMAC-SHA256 Credential=AK/{SCOPE},SignedHeaders=host;x-amz-date,Signature={digits}"
        assert refused(with_authorization(value)).shape == "SignatureDoesNotMatch"

    @pytest.mark.parametrize(
        ("scope", "words"),
        [
            ("20260101/eu-central-1/ec2/aws4_request", "correct service: 'rds'"),
            ("20260101/eu-west-9/rds/aws4_request", "valid region, not 'eu-west-9'"),
            ("20260101/eu-central-1/rds/aws5_request", "valid terminator: 'aws4_request', not 'aws5_request'"),
            ("20260102/eu-central-1/rds/aws4_request", "'20260102' != '20260101'"),
            ("2026/eu-central-1/rds/aws4_request", "'2026' != '20260101'"),
        ],
    )
    def test_the_scope_must_be_ours(self, scope: str, words: str) -> None:
        error = refused(signed(scope=scope))
        assert (error.shape, error.status, words in error.message) == ("SignatureDoesNotMatch", 403, True)

    @pytest.mark.parametrize("stamp", ["20261301T000000Z", "2026-01-01T00:00:00Z", "now", ""])
    def test_the_date_must_be_one(self, stamp: str) -> None:
        request = signed()
        headers = tuple((n, stamp if n == "x-amz-date" else v) for n, v in request.headers)
        assert refused(changed(request, headers=headers)).shape == "IncompleteSignature"

    def test_a_date_is_needed(self) -> None:
        assert "X-Amz-Date" in refused(signed(headers={"host": "h"})).message
        assert refused(signed(headers={"host": "h", "date": "someday"})).shape == "IncompleteSignature"

    def test_presigned_parameters_are_all_needed(self) -> None:
        for name in ("Algorithm", "Credential", "Signature", "SignedHeaders", "Date", "Expires"):
            request = presigned()
            kept = [pair for pair in request.query.split("&") if not pair.startswith(f"X-Amz-{name}=")]
            assert refused(changed(request, query="&".join(kept))).shape == "IncompleteSignature"


class TestTime:
    @pytest.mark.parametrize("late_s", [-301, -300, -299, 0, 299, 300, 301])
    def test_the_clock_may_differ_by_five_minutes(self, late_s: int) -> None:
        if abs(late_s) <= limits.CLOCK_SKEW_MAX_S:
            accepted(signed(), now=NOW + late_s)
        else:
            assert refused(signed(), now=NOW + late_s).shape == "SignatureDoesNotMatch"

    def test_the_words(self) -> None:
        assert refused(signed(), now=NOW + 600).message == (
            "Signature expired: 20260101T001000Z is now earlier than 20260101T001500Z (20260101T002000Z - 5 min.)"
        )
        assert refused(signed(), now=NOW - 600).message == (
            "Signature not yet current: 20260101T001000Z is still later than 20260101T000500Z "
            "(20260101T000000Z + 5 min.)"
        )

    @pytest.mark.parametrize("late_s", [899, 900, 901])
    def test_a_presigned_request_lives_as_long_as_it_says(self, late_s: int) -> None:
        if late_s <= 900:
            accepted(presigned(), now=NOW + late_s)
        else:
            assert refused(presigned(), now=NOW + late_s).message.endswith("- 900 s)")

    @pytest.mark.parametrize("expires", ["0", "-1", "604801", "9999999", "x", "٣"])
    def test_a_life_out_of_bounds_is_refused(self, expires: str) -> None:
        assert refused(presigned(expires=expires)).shape == "IncompleteSignature"

    @pytest.mark.parametrize("expires", ["1", "604799", "604800"])
    def test_a_life_within_bounds(self, expires: str) -> None:
        accepted(presigned(expires=expires))

    def test_a_signature_that_was_kept_expires(self) -> None:
        request = signed()
        signature = read_signature(request, NOW, rules())
        with pytest.raises(ApiError, match="Signature expired"):
            verify(request, signature, SECRET, NOW + 301)


class TestVocabulary:
    @pytest.mark.parametrize(
        ("protocol", "missing", "mismatch", "expired"),
        [
            (
                "query",
                ("MissingAuthenticationToken", 403),
                ("SignatureDoesNotMatch", 403),
                ("SignatureDoesNotMatch", 403),
            ),
            ("ec2", ("AuthFailure", 401), ("AuthFailure", 401), ("RequestExpired", 400)),
            (
                "json",
                ("MissingAuthenticationTokenException", 400),
                ("InvalidSignatureException", 400),
                ("InvalidSignatureException", 400),
            ),
        ],
    )
    def test_each_protocol_has_its_words(
        self, protocol: Protocol, missing: tuple[str, int], mismatch: tuple[str, int], expired: tuple[str, int]
    ) -> None:
        use = rules(protocol)
        unsigned = HttpRequest(method="POST", path="/", query="", headers=(("host", "h"),), body=b"")
        for request, now, wanted in (
            (unsigned, NOW, missing),
            (changed(signed(), body=b"x"), NOW, mismatch),
            (signed(), NOW + 999, expired),
        ):
            error = refused(request, now, use)
            assert (error.shape, error.status) == wanted


class TestLimits:
    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_header_characters(self, extra: int) -> None:
        request = signed(extra=(("cookie", "c" * (limits.HEADER_CHARACTERS_MAX + extra)),))
        if extra <= 0:
            accepted(request)
        else:
            assert refused(request).status == 413

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_signed_headers(self, extra: int) -> None:
        names = {f"h{n}": "v" for n in range(limits.SIGNED_HEADERS_MAX + extra - 2)}
        request = signed(headers={"host": "h", "x-amz-date": STAMP, **names})
        if extra <= 0:
            accepted(request)
        else:
            assert refused(request).shape == "IncompleteSignature"

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    def test_query_string_characters(self, extra: int) -> None:
        request = signed(query="a" * (limits.QUERY_STRING_CHARACTERS_MAX + extra))
        if extra <= 0:
            accepted(request)
        else:
            assert refused(request).status == 413


class TestCanonicalForm:
    @pytest.mark.parametrize(
        ("raw", "wanted"),
        [
            *(("", "/"), ("/", "/"), ("//", "/"), ("/a/./b/../c", "/a/c"), ("/..", "/"), ("/a/..", "/")),
            *(("/a//b/", "/a/b/"), ("/a%20b", "/a%2520b"), ("/~a", "/~a"), ("/é", "/%C3%A9")),
        ],
    )
    def test_paths(self, raw: str, wanted: str) -> None:
        assert canonical.canonical_path(raw) == wanted

    def test_queries(self) -> None:
        assert canonical.canonical_queries("") == ("",)
        assert canonical.canonical_queries("b=2&a=2&a=1&c") == ("a=1&a=2&b=2&c=",)
        assert canonical.canonical_queries("b=1&X-Amz-Signature=0&a=%20") == ("a=%20&b=1",)
        assert canonical.canonical_queries("a=/+") == ("a=/+", "a=%2F%20")

    def test_headers_are_trimmed_and_collapsed(self) -> None:
        assert canonical.canonical_headers([("a", "  x   y "), ("b", "")]) == "a:x y\nb:\n"
