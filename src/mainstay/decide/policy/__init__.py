"""IAM policies: parse a document, decide a request. Pure; the rules are those of the IAM User Guide's policy reference.

Invariants (tests/property/test_policy.py): an explicit deny always wins; adding a boundary or a session policy never
allows more; no text, however broken, raises anything but `MalformedPolicy`.
"""

from mainstay.decide.policy.document import PolicyDocument, PolicyKind, Principal, Statement
from mainstay.decide.policy.evaluate import (
    AccessRequest,
    Decision,
    PolicySet,
    PolicySource,
    Reason,
    evaluate,
    evaluate_resource_policy,
    matching_statements,
)
from mainstay.decide.policy.parse import MalformedPolicy, parse_policy, policy_size

__all__ = [
    "AccessRequest",
    "Decision",
    "MalformedPolicy",
    "PolicyDocument",
    "PolicyKind",
    "PolicySet",
    "PolicySource",
    "Principal",
    "Reason",
    "Statement",
    "evaluate",
    "evaluate_resource_policy",
    "matching_statements",
    "parse_policy",
    "policy_size",
]
