"""Backups in an S3-compatible object storage, over HTTP: taken, shipped, restored, removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from harness.s3 import OPTIONS, NotInstallable, s3_server
from harness.service import Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def bucket() -> Iterator[tuple[Any, str]]:
    """(client, endpoint) of a server with an empty bucket `backups`."""
    try:
        with s3_server() as endpoint:
            client = boto3.client(
                "s3",
                endpoint_url=endpoint,
                region_name=OPTIONS["aws_region"],
                aws_access_key_id=OPTIONS["aws_access_key_id"],
                aws_secret_access_key=OPTIONS["aws_secret_access_key"],
            )
            client.create_bucket(Bucket="backups")
            yield client, endpoint
            client.close()
    except NotInstallable as error:
        pytest.skip(str(error))


def keys(client: Any) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="backups")
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def test_everything_is_in_the_bucket_and_comes_back(bucket: tuple[Any, str], tmp_path: Path) -> None:
    client, endpoint = bucket
    options = tmp_path / "s3.toml"
    options.touch(mode=0o600)
    text = "".join(f'{name} = "{value}"\n' for name, value in OPTIONS.items())
    options.write_text(text + f'aws_endpoint = "{endpoint}"\n')
    with Service(object_storage="s3://backups/mainstay", object_storage_options=str(options)) as service:
        made = service.create_instance("source", BackupRetentionPeriod=1)
        with service.connect(made) as session:
            session.execute("CREATE TABLE kept AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
        moment = int(time.time()) + 1
        time.sleep(moment + 0.1 - time.time())
        with service.connect(made) as session:
            session.execute("DROP TABLE kept")
        before = datetime.fromtimestamp(moment, UTC)
        never = datetime.fromtimestamp(0, UTC)
        eventually(lambda: service.describe("source").get("LatestRestorableTime", never) >= before)
        stored = keys(client)
        assert any("/packs/" in key for key in stored) and all(key.startswith("mainstay/") for key in stored)
        assert not (service.home / "objects").exists()
        service.client("rds").restore_db_instance_to_point_in_time(
            SourceDBInstanceIdentifier="source", TargetDBInstanceIdentifier="restored", RestoreTime=before,
            DBInstanceClass="db.t3.micro", BackupRetentionPeriod=0,
        )  # fmt: skip
        restored = service.await_status("restored", "available")
        with service.connect(restored) as session:
            assert session.execute("SELECT count(*) FROM kept").fetchone() == (5000,)
        service.delete_instance("restored")
        service.delete_instance("source")
        eventually(lambda: not keys(client))
        logs = "".join(path.read_text() for path in (service.home / "logs").iterdir())
        assert OPTIONS["aws_secret_access_key"] not in logs.replace("secretsmanager", "")
