"""Calls EC2 operations as the AWS front does, and holds inputs and answers against botocore's service model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from harness.callers import root_caller
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.services.ec2 import ensure_default_vpc, operations
from mainstay.services.ec2.changes import AccessListListener
from mainstay.services.operations import Call, Demand
from mainstay.settings import Settings
from mainstay.store.sqlite import SqliteStore

ACCOUNT = "123456789012"
MODEL = botocore.session.get_session().get_service_model("ec2")

# EC2 says "available" of an attached gateway, which its own model does not list; Terraform waits for that word.
NOT_IN_THE_ENUM = (
    "DescribeInternetGateways.InternetGateways[].Attachments[].State",
    "CreateInternetGateway.InternetGateway.Attachments[].State",
)


def check_shape(shape: Any, value: Any, path: str) -> None:
    """Fails when an answer holds anything that the service model does not."""
    if shape.type_name == "structure":
        assert isinstance(value, dict), path
        for member, inner in value.items():
            assert member in shape.members, f"{path}.{member} is not in the model"
            check_shape(shape.members[member], inner, f"{path}.{member}")
    elif shape.type_name == "list":
        assert isinstance(value, list), path
        for inner in value:
            check_shape(shape.member, inner, f"{path}[]")
    else:
        kinds = {"string": str, "integer": int, "boolean": bool}
        assert isinstance(value, kinds[shape.type_name]), f"{path} = {value!r}"
        if shape.type_name == "string" and shape.enum:
            assert value in shape.enum or path in NOT_IN_THE_ENUM, f"{path} = {value!r}"


class Listener:
    """Counts the changes it is told of."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    def security_groups_changed(self, scope: Scope) -> None:
        self.scopes.append(scope)


class Cloud:
    """One account in one region."""

    def __init__(self, region: str = "us-east-1") -> None:
        self.store = SqliteStore(":memory:")
        self.scope = Scope(ACCOUNT, region)
        self.settings = Settings(home=Path("/nonexistent"))
        self.randomness = SeededRandomness(7)
        self.clock = SimulatedClock()
        self.listener = Listener()

    def call(self, tx: Any) -> Call:
        return Call(
            caller=root_caller(self.scope.account_id),
            scope=self.scope,
            tx=tx,
            clock=self.clock,
            randomness=self.randomness,
            settings=self.settings,
            collaborators={AccessListListener: self.listener},
        )

    def __call__(self, name: str, **request: Any) -> dict[str, Any]:
        """Runs one operation in a transaction of its own."""
        shape = MODEL.operation_model(name).input_shape
        assert shape is not None
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
        with self.store.transaction() as tx:
            answer = operations.built[name].handler(self.call(tx), request)
        output = MODEL.operation_model(name).output_shape
        if output is None:
            assert answer is None
            return {}
        assert isinstance(answer, dict)
        check_shape(output, answer, name)
        return answer

    def fails(self, name: str, **request: Any) -> ApiError:
        """Runs one operation that must be refused."""
        with pytest.raises(ApiError) as caught:
            self(name, **request)
        return caught.value

    def demands(self, name: str, **request: Any) -> list[Demand]:
        """What the caller must be allowed to do."""
        with self.store.transaction() as tx:
            return list(operations.built[name].demands(self.call(tx), request))

    def ensure(self) -> str:
        """Makes the default VPC and returns its id (empty when it was deleted)."""
        with self.store.transaction() as tx:
            vpc = ensure_default_vpc(tx, self.scope, self.settings, self.randomness, self.clock)
        return vpc.vpc_id if vpc else ""

    def vpc(self, cidr: str = "10.0.0.0/16") -> str:
        return str(self("CreateVpc", CidrBlock=cidr)["Vpc"]["VpcId"])

    def subnet(self, vpc_id: str, cidr: str = "10.0.1.0/24", zone: str = "us-east-1a") -> str:
        made = self("CreateSubnet", VpcId=vpc_id, CidrBlock=cidr, AvailabilityZone=zone)
        return str(made["Subnet"]["SubnetId"])

    def group(self, vpc_id: str, name: str = "db") -> str:
        made = self("CreateSecurityGroup", GroupName=name, Description="a group", VpcId=vpc_id)
        return str(made["GroupId"])
