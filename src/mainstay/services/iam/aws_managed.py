"""The policies AWS provides in every account: those that users of RDS name, with AWS's own documents.

`aws_managed.json` holds one policy per line as AWS publishes it. AWS does not publish their unique ids, so these are
derived from the names: stable, and of the right form.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from mainstay.model.iam import ManagedPolicy, PolicyVersion
from mainstay.model.records import GLOBAL_REGION, Scope

OWNER = "aws"


@cache
def aws_managed_policies() -> MappingProxyType[str, ManagedPolicy]:
    """ARN -> policy."""
    text = resources.files("mainstay.services.iam").joinpath("aws_managed.json").read_text()
    policies = [_read(item) for item in json.loads(text)]
    return MappingProxyType({policy.arn: policy for policy in policies})


def _read(item: dict[str, Any]) -> ManagedPolicy:
    updated_at = datetime.fromisoformat(item["UpdateDate"]).timestamp()
    version = PolicyVersion(
        version_id=item["DefaultVersionId"], document=json.dumps(item["Document"]), created_at=updated_at
    )
    digest = base64.b32encode(hashlib.sha256(item["Name"].encode()).digest()).decode()
    return ManagedPolicy(
        scope=Scope(OWNER, GLOBAL_REGION),
        name=item["Name"],
        id=f"ANPA{digest[:17]}",
        path=item["Path"],
        created_at=datetime.fromisoformat(item["CreateDate"]).timestamp(),
        updated_at=updated_at,
        default_version_id=version.version_id,
        next_version=0,
        versions=(version,),
        owner=OWNER,
    )
