"""The parameters of a request as a dict of Python values, by the operation's input shape.

Guarantee: for any bytes the answer is such a dict, valid by the model (`validate.py`), or an `ApiError`. Parameters
that the model does not know are ignored, as AWS does. Values: str, int, float, bool, bytes, datetime (UTC), list, dict.
"""

from __future__ import annotations

from typing import Any

from botocore.model import OperationModel, StructureShape

from mainstay.protocol.aws.form import read_body, read_tree
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.parse_form import FormReader
from mainstay.protocol.aws.parse_json import JsonReader
from mainstay.protocol.aws.validate import validate
from mainstay.protocol.aws.vocabulary import Protocol


def parse(operation_model: OperationModel, protocol: Protocol, request: HttpRequest) -> dict[str, Any]:
    """What the client asks for, checked against the model."""
    shape = operation_model.input_shape
    service = operation_model.service_model.service_name
    if protocol == "json":
        body = read_body(request, protocol)
        parameters = JsonReader(service).read(shape if isinstance(shape, StructureShape) else None, body)
    else:
        tree = read_tree(request, protocol)
        if not isinstance(shape, StructureShape):
            return {}
        parameters = FormReader(service, protocol).structure(shape, tree, "")
    if isinstance(shape, StructureShape):
        validate(shape, parameters, service, protocol)
    return parameters
