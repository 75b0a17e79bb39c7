"""DescribeDBEngineVersions and DescribeDBMajorEngineVersions: only what is installed and can really run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mainstay.decide.engine_versions import newest, upgrade_targets, version_key
from mainstay.engines.base import EngineRules, Feature
from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import invalid_combination
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.filters import select
from mainstay.services.rds.paging import page, sortable
from mainstay.services.rds.table import handles

AVAILABLE = "available"
PROVISIONED = "provisioned"


def builds_of(call: Call, engine: str | None, version: str | None) -> list[EngineBuild]:
    """The installed builds of an engine (all engines if None) and of a version or major version (all if None)."""
    return [
        build
        for build in call.use(Engines).builds.installed()
        if engine in (None, "", build.engine) and version in (None, "", build.version, build.major)
    ]


def require_upgradable(subject: str, rules: EngineRules, present: str, build: EngineBuild) -> None:
    """Raises `ApiError` InvalidParameterCombination unless the build is of the present major version and not older."""
    refused = f"Cannot upgrade {subject} from {present} to {build.version}"
    dump = f"Create a DB instance of version {build.version} and load a dump of the data into it."
    if version_key(build.version) < version_key(present):
        raise invalid_combination(f"{refused}: a version cannot be taken back. {dump}")
    if build.major != rules.major_of(present):
        raise invalid_combination(
            f"{refused}: major version upgrades are not available in this version of Mainstay. {dump}"
        )


def sort_key(build: EngineBuild) -> str:
    """Orders builds by engine, then by version."""
    return f"{build.engine}/{sortable(build.version)}"


@handles("DescribeDBEngineVersions")
def describe_db_engine_versions(call: Call, request: Request) -> Result:
    """The installed versions that pass all conditions; an engine that is not here gives an empty list, as on AWS."""
    engines = call.use(Engines)
    found = builds_of(call, request.get("Engine"), request.get("EngineVersion"))
    if family := request.get("DBParameterGroupFamily"):
        found = [build for build in found if engines.rules(build.engine).family(build.major) == family.lower()]
    if request.get("DefaultOnly"):
        found = _defaults(found)
    columns = {
        "db-parameter-group-family": lambda build: (engines.rules(build.engine).family(build.major),),
        "engine": lambda build: (build.engine,),
        "engine-mode": lambda _build: (PROVISIONED,),
        "engine-version": lambda build: (build.version,),
        "status": lambda _build: (AVAILABLE,),
    }
    shown, more = page(select(found, request, columns), sort_key, request)
    return {"DBEngineVersions": [_show(call, build, request) for build in shown]} | more


@handles("DescribeDBMajorEngineVersions")
def describe_db_major_engine_versions(call: Call, request: Request) -> Result:
    """The major versions of which a build is installed. AWS's support dates mean nothing here and are left out."""
    wanted = request.get("MajorEngineVersion")
    majors = {
        (build.engine, build.major)
        for build in builds_of(call, request.get("Engine"), None)
        if wanted in (None, "", build.major)
    }
    shown, more = page(majors, lambda pair: f"{pair[0]}/{sortable(pair[1])}", request)
    return {
        "DBMajorEngineVersions": [
            {"Engine": engine, "MajorEngineVersion": major, "SupportedEngineLifecycles": []} for engine, major in shown
        ]
    } | more


def _defaults(builds: Iterable[EngineBuild]) -> list[EngineBuild]:
    """The newest build of each engine: what an instance gets that asks for no version, or for a major version only."""
    by_engine: dict[str, list[EngineBuild]] = {}
    for build in builds:
        by_engine.setdefault(build.engine, []).append(build)
    return [best for group in by_engine.values() if (best := newest(group)) is not None]


def _show(call: Call, build: EngineBuild, request: Request) -> dict[str, Any]:
    engines = call.use(Engines)
    rules = engines.rules(build.engine)
    authorities = call.use(CertificateAuthorities).described()
    shown: dict[str, Any] = {
        "Engine": build.engine,
        "MajorEngineVersion": build.major,
        "EngineVersion": build.version,
        "DBParameterGroupFamily": rules.family(build.major),
        "DBEngineDescription": rules.description,
        "DBEngineVersionDescription": f"{rules.description} {build.version}",
        "ValidUpgradeTarget": [
            {
                "Engine": target.engine,
                "EngineVersion": target.version,
                "Description": f"{rules.description} {target.version}",
                "AutoUpgrade": target.auto_upgrade,
                "IsMajorVersionUpgrade": target.is_major_version_upgrade,
            }
            for target in upgrade_targets(build, engines.builds.installed())
        ],
        "ExportableLogTypes": [],
        "SupportsLogExportsToCloudwatchLogs": False,
        "SupportsReadReplica": Feature.READ_REPLICAS in rules.features,
        "SupportedFeatureNames": [],
        "Status": AVAILABLE,
        "SupportsParallelQuery": False,
        "SupportsGlobalDatabases": False,
        "SupportsBabelfish": False,
        "SupportsCertificateRotationWithoutRestart": False,
        "SupportedCACertificateIdentifiers": [authority.identifier for authority in authorities],
        "TagList": [],
    }
    # CreateDBInstance takes neither a character set nor a time zone for these engines, so there are none to choose.
    if request.get("ListSupportedCharacterSets"):
        shown["SupportedCharacterSets"] = []
    if request.get("ListSupportedTimezones"):
        shown["SupportedTimezones"] = []
    return shown
