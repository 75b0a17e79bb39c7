"""The table of served services agrees with the models that botocore ships."""

from __future__ import annotations

import pytest

from mainstay.host.aws_models import MODELS, read_model
from mainstay.protocol.aws.models import SERVICES, ServedService, ServiceModels


@pytest.mark.parametrize("row", SERVICES, ids=lambda row: row.name)
def test_every_row_agrees_with_its_model(row: ServedService) -> None:
    metadata = MODELS.service(row.name).metadata
    assert metadata["apiVersion"] == row.api_version
    assert metadata.get("signingName", metadata["endpointPrefix"]) == row.signing_name
    assert metadata.get("targetPrefix", "") == row.target_prefix
    assert set(row.protocols) <= set(metadata["protocols"])


def test_a_json_service_is_only_a_row() -> None:
    row = ServedService(
        name="secretsmanager",
        signing_name="secretsmanager",
        api_version="2017-10-17",
        protocols=("json",),
        target_prefix="secretsmanager",
    )
    models = ServiceModels((row,), read_model)
    assert models.has_operation("secretsmanager", "GetSecretValue")
    assert models.by_target == {"secretsmanager": "secretsmanager"}
    assert models.by_version == {}, "a JSON service is never named by a Version parameter"


def test_models_are_read_once_and_hold_no_documentation() -> None:
    model = MODELS.service("rds")
    assert MODELS.service("rds") is model
    assert model.shape_for("DBInstance").documentation == ""
    assert model.shape_for("DBInstance").members["DBInstanceIdentifier"].type_name == "string"  # type: ignore[attr-defined]


def test_an_unserved_service_does_not_exist() -> None:
    with pytest.raises(KeyError):
        MODELS.service("s3")


def test_operations_are_those_of_the_model() -> None:
    assert MODELS.has_operation("rds", "CreateDBInstance")
    assert not MODELS.has_operation("rds", "RunInstances")
    assert MODELS.operation("ec2", "DescribeVpcs").name == "DescribeVpcs"
