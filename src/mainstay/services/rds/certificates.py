"""DescribeCertificates: the certificate authorities that server certificates come from."""

from __future__ import annotations

from typing import Any

from mainstay.host.certificates import AuthorityDescription, CertificateAuthorities
from mainstay.model.errors import ApiError
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import on
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.table import handles


@handles("DescribeCertificates", on("cert", "CertificateIdentifier"))
def describe_certificates(call: Call, request: Request) -> Result:
    """One authority, or all of them a page at a time."""
    authorities = call.use(CertificateAuthorities)
    named = request.get("CertificateIdentifier")
    found = [one for one in authorities.described() if not named or one.identifier == named.lower()]
    if named and not found:
        raise ApiError("CertificateNotFoundFault", f"Certificate not found: {named}")
    shown, more = page(select(found, request, NO_FILTERS), lambda one: one.identifier, request)
    return {
        "DefaultCertificateForNewLaunches": authorities.default_identifier,
        "Certificates": [_show(call, one) for one in shown],
    } | more


def _show(call: Call, authority: AuthorityDescription) -> dict[str, Any]:
    return {
        "CertificateIdentifier": authority.identifier,
        "CertificateType": "CA",
        "Thumbprint": authority.thumbprint,
        "ValidFrom": authority.valid_from,
        "ValidTill": authority.valid_till,
        # Certificate authorities belong to no account.
        "CertificateArn": f"arn:aws:rds:{call.scope.region}::cert:{authority.identifier}",
        "CustomerOverride": False,
    }
