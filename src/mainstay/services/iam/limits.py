"""IAM's default quotas ("IAM and AWS STS quotas", IAM User Guide). Sizes are characters without white space."""

from __future__ import annotations

USERS_PER_ACCOUNT = 5000
GROUPS_PER_ACCOUNT = 300
ROLES_PER_ACCOUNT = 1000
POLICIES_PER_ACCOUNT = 1500
GROUPS_PER_USER = 10
ACCESS_KEYS_PER_USER = 2
ATTACHED_POLICIES_PER_ENTITY = 10
VERSIONS_PER_POLICY = 5
TAGS_PER_RESOURCE = 50

MANAGED_POLICY_SIZE = 6144
TRUST_POLICY_SIZE = 2048
INLINE_POLICY_SIZE = {"user": 2048, "group": 5120, "role": 10240}
"""Of all inline policies of one user, group or role together."""
POLICY_TEXT_LENGTH = 131072
"""Of one document as it is sent, white space included."""

NAME_LENGTH = {"user": 64, "group": 128, "role": 64, "policy": 128}
PATH_LENGTH = 512
DESCRIPTION_LENGTH = 1000
TAG_KEY_LENGTH = 128
TAG_VALUE_LENGTH = 256
MAX_SESSION_DURATION_S = (3600, 43200)
PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000
