"""Reads policy text into a `PolicyDocument`, or raises `MalformedPolicy` saying what is wrong and where.

Parsed documents are remembered by their text, so a policy that many requests use is read once. Refuses to know how
long a policy may be: that differs by what it is attached to (`policy_size` counts as IAM does).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from mainstay.decide.policy.conditions import Condition, find_operator
from mainstay.decide.policy.document import PolicyDocument, PolicyKind, PrincipalPatterns, Statement
from mainstay.decide.policy.patterns import ActionPatterns, Template, template
from mainstay.model.errors import ApiError

VERSION_2012 = "2012-10-17"
VERSIONS = (VERSION_2012, "2008-10-17")
_DOCUMENT_ELEMENTS = {"Version", "Id", "Statement"}
_STATEMENT_ELEMENTS = {"Sid", "Effect", "Condition"} | {
    prefix + name for prefix in ("", "Not") for name in ("Principal", "Action", "Resource")
}
_TRUST_ACTIONS = {
    "sts:assumerole",
    "sts:assumerolewithsaml",
    "sts:assumerolewithwebidentity",
    "sts:setcontext",
    "sts:setsourceidentity",
    "sts:tagsession",
}
_SID = {
    PolicyKind.IDENTITY: re.compile(r"[0-9A-Za-z]*"),
    PolicyKind.TRUST: re.compile(r"[0-9A-Za-z]*"),
    PolicyKind.RESOURCE: re.compile(r"[^\x00-\x1f]*"),
}
_ACTION = re.compile(r"\*|(\*|[A-Za-z0-9-]+):[A-Za-z0-9*?_-]+")
_SERVICE = re.compile(r"[a-z0-9][a-z0-9.-]*\.amazonaws\.com|[a-z0-9][a-z0-9.-]*\.amazon\.com")
_ACCOUNT = re.compile(r"\d{12}")
_AWS_PRINCIPAL = re.compile(
    r"arn:aws:iam::\d{12}:(root|(user|role)/[!-~]+)"
    r"|arn:aws:sts::\d{12}:(assumed-role/[^/*?]+/[^/*?]+|federated-user/[^*?]+)"
)


class MalformedPolicy(ApiError):
    """`MalformedPolicyDocument`: the text is no valid policy. The message ends with the place in the document."""

    def __init__(self, message: str, where: str = "") -> None:
        text = f"{message} (at {where})" if where else message
        # The text quotes the client's document, which may hold what no answer can carry (lone surrogates, controls).
        printable = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
        super().__init__("MalformedPolicyDocumentException", printable)


def policy_size(text: str) -> int:
    """Characters of a policy as IAM counts them: without white space."""
    return len("".join(text.split()))


@lru_cache(maxsize=2048)
def parse_policy(text: str, kind: PolicyKind = PolicyKind.IDENTITY) -> PolicyDocument:
    """Reads and validates a policy."""
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedPolicy("Syntax errors in policy.", _json_place(error)) from error
    if not isinstance(document, dict):
        raise MalformedPolicy("Syntax errors in policy.", "the document is not an object")
    if unknown := sorted(set(document) - _DOCUMENT_ELEMENTS):
        raise MalformedPolicy("Syntax errors in policy.", f"unknown element {unknown[0]!r}")
    version = document.get("Version", VERSIONS[1])
    if version not in VERSIONS:
        raise MalformedPolicy("Policy document must be version 2012-10-17 or greater.", "Version")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise MalformedPolicy("Syntax errors in policy.", "Statement is missing or empty")
    parsed = tuple(_StatementReader(kind, version, index).read(item) for index, item in enumerate(statements))
    if sid := _repeated(statement.sid for statement in parsed if statement.sid):
        raise MalformedPolicy("Statement IDs (SID) in a single policy must be unique.", f"Sid {sid!r}")
    return PolicyDocument(version, parsed)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    element = dict(pairs)
    if len(element) != len(pairs):
        raise ValueError(f"element {_repeated(name for name, _ in pairs)!r} appears twice")
    return element


def _repeated(names: Iterable[str]) -> str:
    """The first name that comes a second time, or an empty string."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _json_place(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno} column {error.colno}: {error.msg}"
    return "the document is nested too deeply" if isinstance(error, RecursionError) else str(error)


class _StatementReader:
    """Reads one statement; knows where it stands so that errors can say so."""

    def __init__(self, kind: PolicyKind, version: str, index: int) -> None:
        self.kind = kind
        self.variables = version == VERSION_2012
        self.index = index
        self.place = f"Statement[{index}]"

    def fail(self, message: str, element: str = "") -> NoReturn:
        raise MalformedPolicy(message, f"{self.place}.{element}" if element else self.place)

    def read(self, item: Any) -> Statement:
        if not isinstance(item, dict):
            self.fail("Syntax errors in policy.")
        if unknown := sorted(set(item) - _STATEMENT_ELEMENTS):
            self.fail("Syntax errors in policy.", f"{unknown[0]} is no element of a statement")
        for name in ("Action", "Resource", "Principal"):
            if name in item and f"Not{name}" in item:
                self.fail("Syntax errors in policy.", f"{name} and Not{name} exclude each other")
        effect = item.get("Effect")
        if effect not in ("Allow", "Deny"):
            self.fail("Syntax errors in policy.", "Effect must be Allow or Deny")
        return Statement(
            position=self.index,
            sid=self.read_sid(item.get("Sid", "")),
            allow=effect == "Allow",
            actions=self.read_actions(item),
            not_action="NotAction" in item,
            resources=self.read_resources(item),
            not_resource="NotResource" in item,
            principals=self.read_principals(item, effect),
            not_principal="NotPrincipal" in item,
            conditions=self.read_conditions(item.get("Condition", {})),
        )

    def read_sid(self, sid: Any) -> str:
        if not isinstance(sid, str):
            self.fail("Syntax errors in policy.", "Sid")
        if not _SID[self.kind].fullmatch(sid):
            message = (
                "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression"
            )
            self.fail(f"{message} [0-9A-Za-z]*", "Sid")
        return sid

    def read_strings(self, value: Any, element: str) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            self.fail("Syntax errors in policy.", f"{element} must be a string or a list of strings")
        return values

    def read_actions(self, item: dict[str, Any]) -> ActionPatterns:
        element = "NotAction" if "NotAction" in item else "Action"
        actions = self.read_strings(item.get(element, []), element)
        if not actions:
            self.fail("Policy statement must contain actions.")
        for position, action in enumerate(actions):
            if not _ACTION.fullmatch(action):
                self.fail(
                    "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
                    f"{element}[{position}] {action[:128]!r}",
                )
            if self.kind is PolicyKind.TRUST and action.lower() not in _TRUST_ACTIONS:
                self.fail("AssumeRole policy may only specify STS AssumeRole actions.", f"{element}[{position}]")
        return ActionPatterns(actions)

    def read_resources(self, item: dict[str, Any]) -> tuple[Template, ...] | None:
        element = "NotResource" if "NotResource" in item else "Resource"
        if self.kind is PolicyKind.TRUST:
            if element in item:
                self.fail(f"Has prohibited field {element}")
            return None
        resources = self.read_strings(item.get(element, []), element)
        if not resources:
            self.fail("Policy statement must contain resources.")
        for position, resource in enumerate(resources):
            if resource != "*" and not resource.startswith("arn:"):
                self.fail(f'Resource {resource[:256]} must be in ARN format or "*".', f"{element}[{position}]")
        return tuple(template(resource, variables=self.variables) for resource in resources)

    def read_principals(self, item: dict[str, Any], effect: str) -> PrincipalPatterns | None:
        element = "NotPrincipal" if "NotPrincipal" in item else "Principal"
        if self.kind is PolicyKind.IDENTITY:
            if element in item:
                self.fail("Policy document should not specify a principal.", element)
            return None
        if element not in item:
            self.fail("Missing required field Principal")
        if element == "NotPrincipal" and effect == "Allow":
            self.fail("Allow with NotPrincipal is not allowed.", element)
        value = item[element]
        if value == "*":
            value = {"AWS": "*"}
        if not isinstance(value, dict) or not value:
            self.fail('Invalid principal in policy: it must be "*" or an object.', element)
        if unknown := sorted(set(value) - {"AWS", "Service", "Federated", "CanonicalUser"}):
            self.fail(f"Invalid principal in policy: unknown kind {unknown[0][:64]!r}", element)
        named = {name: self.read_strings(names, f"{element}.{name}") for name, names in value.items()}
        for service in named.get("Service", ()):
            if not _SERVICE.fullmatch(service):
                self.fail(f'Invalid principal in policy: "SERVICE":"{service[:256]}"', element)
        return PrincipalPatterns(
            aws=frozenset(self.read_aws_principal(name, element) for name in named.get("AWS", ())),
            services=frozenset(named.get("Service", ())),
            federated=frozenset(named.get("Federated", ())),
        )

    def read_aws_principal(self, name: str, element: str) -> str:
        if _ACCOUNT.fullmatch(name):
            return f"arn:aws:iam::{name}:root"
        if name != "*" and not (_AWS_PRINCIPAL.fullmatch(name) and "*" not in name):
            self.fail(f'Invalid principal in policy: "AWS":"{name[:256]}"', element)
        return name

    def read_conditions(self, block: Any) -> tuple[Condition, ...]:
        if not isinstance(block, dict):
            self.fail("Syntax errors in policy.", "Condition must be an object")
        conditions = []
        for name, keys in block.items():
            found = find_operator(name)
            if found is None:
                self.fail(f"Invalid Condition type : {name[:128]}.", "Condition")
            if not isinstance(keys, dict):
                self.fail("Syntax errors in policy.", f"Condition.{name} must be an object")
            operator, quantifier, if_exists = found
            for key, value in keys.items():
                place = f"Condition.{name}.{key[:256]}"
                if ":" not in key:
                    self.fail("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.", place)
                try:
                    operands = tuple(
                        operator.prepare(text, self.variables) for text in self.read_operands(value, place)
                    )
                except ValueError:
                    self.fail(f"Syntax errors in policy. The value does not fit {name}.", place)
                conditions.append(Condition(operator, quantifier, if_exists, key.lower(), operands))
        return tuple(conditions)

    def read_operands(self, value: Any, place: str) -> Sequence[str]:
        values = value if isinstance(value, list) else [value]
        texts = []
        for each in values:
            if isinstance(each, bool):
                texts.append("true" if each else "false")
            elif isinstance(each, str | int | float):
                texts.append(str(each))
            else:
                self.fail("Syntax errors in policy.", place)
        return texts
