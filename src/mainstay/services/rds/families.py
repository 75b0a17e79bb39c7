"""DB parameter group families: which engine and major version each is for, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.decide.engine_versions import version_key
from mainstay.engines.registry import Engines
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import invalid_value
from mainstay.services.operations import Call


def families(call: Call) -> dict[str, EngineBuild]:
    """Family -> its newest installed build."""
    engines = call.use(Engines)
    builds = sorted(engines.builds.installed(), key=lambda build: version_key(build.version))
    return {engines.rules(build.engine).family(build.major): build for build in builds}


def definitions_of(call: Call, family: str) -> Mapping[str, ParameterDefinition]:
    """The parameters of a family, those of its newest build.

    Raises `ApiError` InvalidParameterValue for a family of which no build is installed.
    """
    build = families(call).get(family)
    if build is None:
        raise invalid_value(f"ParameterGroupFamily {family} is not a valid parameter group family")
    return call.use(Engines).rules(build.engine).definitions(build)
