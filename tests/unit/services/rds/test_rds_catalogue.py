"""What can be ordered here: engine versions, classes, certificates, quotas, regions; and what never exists."""

from __future__ import annotations

from typing import Any

import pytest

from harness.rds_calls import Rds
from mainstay.host.certificates import CertificateAuthorities
from mainstay.model.db_instance import PendingModification


def versions(rds: Rds, **request: Any) -> list[str]:
    return [one["EngineVersion"] for one in rds.call("DescribeDBEngineVersions", **request)["DBEngineVersions"]]


def test_engine_versions_are_the_installed_ones(rds: Rds) -> None:
    assert versions(rds) == ["17.2", "17.5", "18.1"]
    (shown,) = rds.call("DescribeDBEngineVersions", Engine="postgres", EngineVersion="17.2")["DBEngineVersions"]
    assert shown["DBParameterGroupFamily"] == "postgres17"
    assert shown["MajorEngineVersion"] == "17"
    assert shown["Status"] == "available"
    assert shown["SupportedCACertificateIdentifiers"] == ["rds-ca-rsa2048-g1"]
    assert shown["ValidUpgradeTarget"] == [
        {
            "Engine": "postgres",
            "EngineVersion": "17.5",
            "Description": "PostgreSQL 17.5",
            "AutoUpgrade": True,
            "IsMajorVersionUpgrade": False,
        }
    ]


def test_engine_versions_by_condition(rds: Rds) -> None:
    assert versions(rds, EngineVersion="17") == ["17.2", "17.5"]
    assert versions(rds, DefaultOnly=True) == ["18.1"]
    assert versions(rds, EngineVersion="17", DefaultOnly=True) == ["17.5"]
    assert versions(rds, DBParameterGroupFamily="postgres18") == ["18.1"]
    assert versions(rds, Engine="mysql") == []
    assert versions(rds, EngineVersion="9.6") == []


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [("engine", "postgres", 3), ("engine-version", "17.5", 1), ("db-parameter-group-family", "postgres17", 2),
     ("status", "deprecated", 0), ("engine-mode", "provisioned", 3)],
)  # fmt: skip
def test_engine_version_filters(rds: Rds, name: str, value: str, count: int) -> None:
    assert len(versions(rds, Filters=[{"Name": name, "Values": [value]}])) == count


def test_lists_of_character_sets_only_when_asked_for(rds: Rds) -> None:
    (plain,) = rds.call("DescribeDBEngineVersions", EngineVersion="18.1")["DBEngineVersions"]
    assert "SupportedCharacterSets" not in plain
    (listed,) = rds.call("DescribeDBEngineVersions", EngineVersion="18.1", ListSupportedCharacterSets=True,
                         ListSupportedTimezones=True)["DBEngineVersions"]  # fmt: skip
    assert listed["SupportedCharacterSets"] == listed["SupportedTimezones"] == []


def test_major_versions(rds: Rds) -> None:
    answer = rds.call("DescribeDBMajorEngineVersions", Engine="postgres")["DBMajorEngineVersions"]
    assert [one["MajorEngineVersion"] for one in answer] == ["17", "18"]
    answer = rds.call("DescribeDBMajorEngineVersions", MajorEngineVersion="18")["DBMajorEngineVersions"]
    assert [one["MajorEngineVersion"] for one in answer] == ["18"]


def orderable(rds: Rds, **request: Any) -> list[dict[str, Any]]:
    answer = rds.call("DescribeOrderableDBInstanceOptions", **({"Engine": "postgres"} | request))
    return answer["OrderableDBInstanceOptions"]


def test_only_classes_that_the_host_can_hold(rds: Rds) -> None:
    rows = orderable(rds, EngineVersion="17.5", MaxRecords=1000)
    classes = {row["DBInstanceClass"] for row in rows}
    assert {"db.t3.micro", "db.t4g.large", "db.m5.large"} <= classes  # the host has 8 GiB
    assert classes.isdisjoint({"db.r5.large", "db.t3.xlarge"})
    assert len(rows) == len(classes) * 5


def test_an_orderable_row(rds: Rds) -> None:
    rows = orderable(rds, EngineVersion="17.5", DBInstanceClass="db.t3.micro")
    assert [row["StorageType"] for row in rows] == ["gp2", "gp3", "io1", "io2", "standard"]
    assert [row["MinStorageSize"] for row in rows] == [20, 20, 100, 100, 5]
    assert [row["SupportsIops"] for row in rows] == [False, True, True, True, False]
    assert rows[0]["AvailabilityZones"] == [{"Name": f"us-east-1{letter}"} for letter in "abc"]
    assert rows[0]["LicenseModel"] == "postgresql-license"
    assert rows[0]["Vpc"] is True
    assert rows[0]["MultiAZCapable"] is True


def test_orderable_conditions(rds: Rds) -> None:
    for request in ({"Vpc": False}, {"LicenseModel": "bring-your-own-license"}, {"AvailabilityZoneGroup": "moon"},
                    {"EngineVersion": "9"}, {"DBInstanceClass": "db.x"}):  # fmt: skip
        assert orderable(rds, **request) == []
    assert orderable(rds, Vpc=True, LicenseModel="postgresql-license", AvailabilityZoneGroup="us-east-1")
    assert rds.refused("DescribeOrderableDBInstanceOptions", Engine="db2").startswith("InvalidParameterValue")


def test_orderable_pages_of_up_to_a_thousand(rds: Rds) -> None:
    total = len(orderable(rds, MaxRecords=1000))
    assert len(orderable(rds)) == 100 < total
    assert rds.refused("DescribeOrderableDBInstanceOptions", Engine="postgres", MaxRecords=1001) == (
        "InvalidParameterValue: Invalid value 1001 for MaxRecords. Must be between 20 and 1000"
    )


def test_certificates(rds: Rds, authorities: CertificateAuthorities) -> None:
    answer = rds.call("DescribeCertificates")
    assert answer["DefaultCertificateForNewLaunches"] == "rds-ca-rsa2048-g1"
    (shown,) = answer["Certificates"]
    assert shown["CertificateIdentifier"] == "rds-ca-rsa2048-g1"
    assert shown["CertificateType"] == "CA"
    assert shown["CertificateArn"] == "arn:aws:rds:us-east-1::cert:rds-ca-rsa2048-g1"
    assert shown["Thumbprint"] == authorities.described()[0].thumbprint
    assert rds.call("DescribeCertificates", CertificateIdentifier="rds-ca-rsa2048-g1")["Certificates"] == [shown]
    assert rds.refused("DescribeCertificates", CertificateIdentifier="x") == (
        "CertificateNotFoundFault: Certificate not found: x"
    )


def test_quotas_show_real_use(rds: Rds, group: str) -> None:
    rds.instance("one", allocated_storage_gib=30)
    rds.instance("two", allocated_storage_gib=50)
    rds.call("CreateDBParameterGroup", DBParameterGroupName="pg", DBParameterGroupFamily="postgres17", Description="d")
    rds.call("DescribeDBParameterGroups", DBParameterGroupName="default.postgres17")
    used = {one["AccountQuotaName"]: (one["Used"], one["Max"])
            for one in rds.call("DescribeAccountAttributes")["AccountQuotas"]}  # fmt: skip
    assert used["DBInstances"] == (2, 40)
    assert used["AllocatedStorage"] == (80, 100000)
    assert used["DBParameterGroups"] == (1, 50)
    assert used["OptionGroups"] == (0, 20)
    assert used["DBSubnetGroups"] == (1, 50)
    assert used["SubnetsPerDBSubnetGroup"] == (2, 20)


def test_source_regions_are_the_others(rds: Rds) -> None:
    names = [one["RegionName"] for one in rds.call("DescribeSourceRegions")["SourceRegions"]]
    assert names == ["eu-west-1", "us-west-2"]
    (one,) = rds.call("DescribeSourceRegions", RegionName="eu-west-1")["SourceRegions"]
    assert one["Status"] == "available"
    assert rds.refused("DescribeSourceRegions", RegionName="moon-1").startswith("InvalidParameterValue")


def test_pending_maintenance(rds: Rds) -> None:
    rds.instance("idle")
    busy = rds.instance("busy", pending=PendingModification(engine_version="17.5", db_instance_class="db.t3.small"))
    (resource,) = rds.call("DescribePendingMaintenanceActions")["PendingMaintenanceActions"]
    assert resource["ResourceIdentifier"] == busy.arn
    (action,) = resource["PendingMaintenanceActionDetails"]
    assert (action["Action"], action["OptInStatus"]) == ("db-upgrade", "next-maintenance")
    assert 0 < action["CurrentApplyDate"] - rds.clock.wall() <= 7 * 24 * 3600

    def listed(**request: Any) -> int:
        return len(rds.call("DescribePendingMaintenanceActions", **request)["PendingMaintenanceActions"])

    assert listed(ResourceIdentifier=busy.arn) == 1
    assert listed(Filters=[{"Name": "db-instance-id", "Values": [busy.arn]}]) == 1
    assert listed(Filters=[{"Name": "db-instance-id", "Values": ["idle"]}]) == 0
    assert rds.refused("DescribePendingMaintenanceActions", ResourceIdentifier=busy.arn + "x").startswith(
        "ResourceNotFoundFault"
    )


@pytest.mark.parametrize(
    ("operation", "member", "named", "error"),
    [
        ("DescribeReservedDBInstances", "ReservedDBInstances", "ReservedDBInstanceId",
         "ReservedDBInstanceNotFoundFault"),
        ("DescribeReservedDBInstancesOfferings", "ReservedDBInstancesOfferings", "ReservedDBInstancesOfferingId",
         "ReservedDBInstancesOfferingNotFoundFault"),
        ("DescribeDBSecurityGroups", "DBSecurityGroups", "DBSecurityGroupName", "DBSecurityGroupNotFoundFault"),
    ],
)  # fmt: skip
def test_what_never_exists(rds: Rds, operation: str, member: str, named: str, error: str) -> None:
    assert rds.call(operation) == {member: []}
    assert rds.refused(operation, **{named: "x"}).startswith(error)
    assert "MaxRecords" in rds.refused(operation, MaxRecords=1)
