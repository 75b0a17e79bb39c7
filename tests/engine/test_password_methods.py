"""rds.accepted_password_auth_method: users whose password is kept as MD5 log in, or do not."""

from __future__ import annotations

import secrets

import psycopg
import pytest

from harness.service import Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


def test_md5_passwords_are_shut_out_while_scram_alone_is_accepted(service: Service) -> None:
    rds = service.client("rds")
    major = service.engine_version.split(".")[0]
    name = f"g{secrets.token_hex(4)}"
    rds.create_db_parameter_group(DBParameterGroupName=name, DBParameterGroupFamily=f"postgres{major}", Description="d")
    instance = service.create_instance("methods", DBParameterGroupName=name)

    def accepted(user: str) -> bool:
        try:
            with service.connect(instance, user=user, password="correct-horse-9"):
                return True
        except psycopg.OperationalError as error:
            assert "password authentication failed" in str(error)
            return False

    def accept(methods: str) -> None:
        parameter = {"ParameterName": "rds.accepted_password_auth_method", "ParameterValue": methods}
        rds.modify_db_parameter_group(DBParameterGroupName=name, Parameters=[{**parameter, "ApplyMethod": "immediate"}])

    try:
        with service.connect(instance) as session:
            for kind in ("md5", "scram-sha-256"):
                session.execute(f"SET password_encryption = '{kind}'")
                session.execute(f"CREATE ROLE \"{kind}\" LOGIN PASSWORD 'correct-horse-9'")
        assert accepted("md5") and accepted("scram-sha-256")
        accept("scram")
        eventually(lambda: not accepted("md5"), timeout_s=10.0)
        assert accepted("scram-sha-256")
        accept("md5+scram")
        eventually(lambda: accepted("md5"), timeout_s=10.0)
        with pytest.raises(rds.exceptions.ClientError, match="InvalidParameterValue"):
            accept("md5")
    finally:
        service.delete_instance("methods")
        rds.delete_db_parameter_group(DBParameterGroupName=name)
