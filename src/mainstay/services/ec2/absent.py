"""Things of EC2 that never exist here, for tools that look before they build or tear down a network.

Answering "none" is the truth; naming one by id gets EC2's not-found error.
"""

from __future__ import annotations

from collections.abc import Callable

from mainstay.model.errors import ApiError
from mainstay.services.ec2.table import handles
from mainstay.services.operations import Call, Request, Result


def _none_of(member: str, ids: str, code: str, noun: str) -> Callable[[Call, Request], Result]:
    def describe(_call: Call, request: Request) -> Result:
        for resource_id in request.get(ids) or ():
            raise ApiError(code, f"The {noun} '{resource_id}' does not exist")
        return {member: []}

    return describe


_PAGING = ("Filters", "MaxResults", "NextToken")

handles("DescribeInstances", "InstanceIds", *_PAGING)(
    _none_of("Reservations", "InstanceIds", "InvalidInstanceID.NotFound", "instance ID")
)
handles("DescribeNatGateways", "NatGatewayIds", "Filter", "MaxResults", "NextToken")(
    _none_of("NatGateways", "NatGatewayIds", "NatGatewayNotFound", "NatGateway ID")
)
handles("DescribeVpcEndpoints", "VpcEndpointIds", *_PAGING)(
    _none_of("VpcEndpoints", "VpcEndpointIds", "InvalidVpcEndpointId.NotFound", "Vpc Endpoint Id")
)
handles("DescribeVpcPeeringConnections", "VpcPeeringConnectionIds", *_PAGING)(
    _none_of(
        "VpcPeeringConnections",
        "VpcPeeringConnectionIds",
        "InvalidVpcPeeringConnectionID.NotFound",
        "vpcPeeringConnection ID",
    )
)
