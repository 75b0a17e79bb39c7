"""The services that are served, and their models, which somebody else reads (`host/aws_models.py`).

Only the services listed in `SERVICES` exist; a new one is one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from botocore.model import OperationModel, ServiceModel

from mainstay.protocol.aws.vocabulary import Protocol


class ServedService(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known of a service before its model is read, so that identifying a request reads no model.

    `protocols` are those we understand, best first. `target_prefix` is the part of X-Amz-Target before the operation.
    A `global_region` is the region in which a service without regions is signed, wherever it runs. A service with
    `regional_endpoints` may be signed for any other as well, and then was called there.
    """

    name: str
    signing_name: str
    api_version: str
    protocols: tuple[Protocol, ...]
    target_prefix: str = ""
    global_region: str = ""
    regional_endpoints: bool = True


SERVICES: tuple[ServedService, ...] = (
    ServedService(name="rds", signing_name="rds", api_version="2014-10-31", protocols=("query",)),
    ServedService(name="ec2", signing_name="ec2", api_version="2016-11-15", protocols=("ec2",)),
    ServedService(
        name="iam",
        signing_name="iam",
        api_version="2010-05-08",
        protocols=("query",),
        global_region="us-east-1",
        regional_endpoints=False,
    ),
    ServedService(
        name="sts", signing_name="sts", api_version="2011-06-15", protocols=("query",), global_region="us-east-1"
    ),
    ServedService(
        name="secretsmanager",
        signing_name="secretsmanager",
        api_version="2017-10-17",
        protocols=("json",),
        target_prefix="secretsmanager",
    ),
    ServedService(
        name="kms", signing_name="kms", api_version="2014-11-01", protocols=("json",), target_prefix="TrentService"
    ),
)


class ServiceModels:
    """The models of the served services, each read once, when it is first asked for.

    Asking for any other service raises KeyError.
    """

    def __init__(self, services: tuple[ServedService, ...], read: Callable[[ServedService], ServiceModel]) -> None:
        self._read = read
        self.rows: Mapping[str, ServedService] = {row.name: row for row in services}
        self.served: Mapping[str, str] = {row.signing_name: row.name for row in services}
        self.by_version: Mapping[str, str] = {
            row.api_version: row.name for row in services if row.protocols != ("json",)
        }
        self.by_target: Mapping[str, str] = {row.target_prefix: row.name for row in services if row.target_prefix}
        self._models: dict[str, ServiceModel] = {}
        self._operation_names: dict[str, frozenset[str]] = {}

    def service(self, name: str) -> ServiceModel:
        """The model of a service, by botocore's name for it."""
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = self._read(self.rows[name])
        return model

    def operation(self, service: str, name: str) -> OperationModel:
        """The model of one operation; `has_operation` tells whether it exists."""
        return self.service(service).operation_model(name)

    def has_operation(self, service: str, name: str) -> bool:
        """Whether AWS's model lists this operation, built by us or not."""
        names = self._operation_names.get(service)
        if names is None:
            names = self._operation_names[service] = frozenset(self.service(service).operation_names)
        return name in names
