"""Tags of users, roles and managed policies."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainstay.model.iam import ManagedPolicy, Role, User
from mainstay.services.iam.checks import check_tags
from mainstay.services.iam.lookup import find_entity, find_own_policy, find_policy
from mainstay.services.iam.pages import page
from mainstay.services.iam.roles import modifiable_role
from mainstay.services.iam.shapes import tag_list
from mainstay.services.iam.table import on_entity, on_policy
from mainstay.services.operations import Call, Handler, Request, Result

Tagged = User | Role | ManagedPolicy
Find = Callable[[Call, Request], Tagged]
Register = Callable[[str], Callable[[Handler], Handler]]


def _register(noun: str, register: Register, find: Find, find_to_change: Find) -> None:
    @register(f"Tag{noun}")
    def tag(call: Call, request: Request) -> Result:
        tagged = find_to_change(call, request)
        call.tx.put(msgspec.structs.replace(tagged, tags=check_tags(request["Tags"], tagged.tags)))
        return None

    @register(f"Untag{noun}")
    def untag(call: Call, request: Request) -> Result:
        tagged = find_to_change(call, request)
        removed = {key.lower() for key in request["TagKeys"]}
        rest = {key: value for key, value in tagged.tags.items() if key.lower() not in removed}
        call.tx.put(msgspec.structs.replace(tagged, tags=rest))
        return None

    @register(f"List{noun}Tags")
    def list_tags(call: Call, request: Request) -> Result:
        shown, more = page(request, tag_list(find(call, request).tags), lambda each: each["Key"])
        return {"Tags": shown, **more}


def _user(call: Call, request: Request) -> User:
    return find_entity(call, User, request["UserName"])


_register("User", lambda name: on_entity(name, User), _user, _user)
_register(
    "Role",
    lambda name: on_entity(name, Role),
    lambda call, request: find_entity(call, Role, request["RoleName"]),
    lambda call, request: modifiable_role(call, request["RoleName"]),
)
_register(
    "Policy",
    on_policy,
    lambda call, request: find_policy(call, request["PolicyArn"]),
    lambda call, request: find_own_policy(call, request["PolicyArn"]),
)
