"""What IAM has and this account has not: consoles, MFA devices, certificates, identity providers, instance profiles.

Tools ask for these before they delete a user or when they take stock. The truthful answer is an empty list, or
`NoSuchEntity` for the password of a user.
"""

from __future__ import annotations

from functools import partial

from mainstay.model.iam import User
from mainstay.services.iam.lookup import find_entity, no_such_entity
from mainstay.services.iam.table import named_user, on_entity, operations
from mainstay.services.operations import Call, Request, Result

OF_ACCOUNT = {
    "ListInstanceProfiles": ("InstanceProfiles", True),
    "ListOpenIDConnectProviders": ("OpenIDConnectProviderList", False),
    "ListSAMLProviders": ("SAMLProviderList", False),
    "ListServerCertificates": ("ServerCertificateMetadataList", True),
    "ListVirtualMFADevices": ("VirtualMFADevices", True),
}
OF_USER = {
    "ListMFADevices": ("MFADevices", True),
    "ListSSHPublicKeys": ("SSHPublicKeys", True),
    "ListServiceSpecificCredentials": ("ServiceSpecificCredentials", False),
    "ListSigningCertificates": ("Certificates", True),
}
"""Operation -> the member that stays empty, and whether the list has pages."""


def _empty(member: str, paged: bool, _call: Call, _request: Request) -> Result:
    return {member: [], "IsTruncated": False} if paged else {member: []}


def _empty_of_user(member: str, paged: bool, call: Call, request: Request) -> Result:
    if name := named_user(call, request):
        find_entity(call, User, name)
    return _empty(member, paged, call, request)


def _no_login_profile(call: Call, request: Request) -> Result:
    user = find_entity(call, User, named_user(call, request))
    raise no_such_entity(f"Login Profile for User {user.name} cannot be found.")


for _name, (_member, _paged) in OF_ACCOUNT.items():
    operations.handles(_name)(partial(_empty, _member, _paged))
for _name, (_member, _paged) in OF_USER.items():
    on_entity(_name, User)(partial(_empty_of_user, _member, _paged))
for _name in ("GetLoginProfile", "DeleteLoginProfile"):
    on_entity(_name, User)(_no_login_profile)
