"""Option groups: what an instance has beside what every instance of its engine has.

Which options there are is the engine's (`EngineRules.options`); most have none, and clients still create, name and
describe the groups.

Source: RDS API reference; RDS user guide, "Working with option groups".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.decide.identifiers import check_description, check_option_group_name
from mainstay.decide.parameters import check_value, is_formula
from mainstay.decide.rds_tags import with_tags
from mainstay.engines.registry import Engines
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.model.option_group import EngineOption, OptionGroup
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.engine_versions import builds_of
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.quotas import OPTION_GROUPS, require_room
from mainstay.services.rds.refresh import request_refresh
from mainstay.services.rds.resources import BY_KIND, stored_name
from mainstay.services.rds.table import handles


def default_option_group(call: Call, name: str) -> OptionGroup:
    """A major version's default group ("default:postgres-17"), made when it is first named.

    Raises `ApiError` OptionGroupNotFoundFault if no installed engine has a default group of this name.
    """
    present = call.tx.get(OptionGroup, call.scope, name)
    if present is not None:
        return present
    engines = call.use(Engines)
    for build in engines.builds.installed():
        if engines.rules(build.engine).default_option_group(build.major) == name:
            group = OptionGroup(
                scope=call.scope,
                option_group_name=name,
                engine_name=build.engine,
                major_engine_version=build.major,
                description=f"Default option group for {build.engine} {build.major}",
            )
            call.tx.insert(group)
            return group
    raise BY_KIND[OptionGroup].not_found(name)


def require_option_group(call: Call, named: str) -> OptionGroup:
    """The group of this name or ARN; default groups are made on demand. Raises `ApiError` OptionGroupNotFoundFault."""
    return default_option_group(call, stored_name(call.scope, "og", named))


@handles("CreateOptionGroup", creates("og", "OptionGroupName"))
def create_option_group(call: Call, request: Request) -> Result:
    """Records an empty group for one major version of an engine."""
    name = check_option_group_name(request["OptionGroupName"])
    engine, major = request["EngineName"], request["MajorEngineVersion"]
    _check_major(call, engine, major)
    group = OptionGroup(
        scope=call.scope,
        option_group_name=name,
        engine_name=engine,
        major_engine_version=major,
        description=check_description(request["OptionGroupDescription"], "OptionGroupDescription"),
        tags=with_tags({}, request.get("Tags") or ()),
    )
    return _add(call, group)


@handles("CopyOptionGroup", on("og", "SourceOptionGroupIdentifier"), creates("og", "TargetOptionGroupIdentifier"))
def copy_option_group(call: Call, request: Request) -> Result:
    """Records a group with the options of another one; tags are not copied."""
    source = require_option_group(call, request["SourceOptionGroupIdentifier"])
    if source.is_default:
        raise invalid_value(f"The default option group {source.option_group_name} cannot be copied.")
    group = OptionGroup(
        scope=call.scope,
        option_group_name=check_option_group_name(
            request["TargetOptionGroupIdentifier"], "TargetOptionGroupIdentifier"
        ),
        engine_name=source.engine_name,
        major_engine_version=source.major_engine_version,
        description=check_description(request["TargetOptionGroupDescription"], "TargetOptionGroupDescription"),
        source_option_group=source.arn,
        options=source.options,
        copied_at=call.clock.wall(),
        tags=with_tags({}, request.get("Tags") or ()),
    )
    return _add(call, group)


@handles("ModifyOptionGroup", on("og", "OptionGroupName"))
def modify_option_group(call: Call, request: Request) -> Result:
    """Adds options, changes their settings, removes them; the group's instances follow at once."""
    group = require_option_group(call, request["OptionGroupName"])
    if group.is_default:
        raise invalid_value(f"The default option group {group.option_group_name} cannot be modified.")
    included, removed = request.get("OptionsToInclude") or (), request.get("OptionsToRemove") or ()
    if not included and not removed:
        raise invalid_value("At least one option must be added, modified, or removed.")
    offered = _offered(call, group.engine_name)
    options = dict(group.options)
    for name in removed:
        if options.pop(_known(offered, name).name, None) is None:
            raise invalid_value(f"The option group {group.option_group_name} has no option {name}.")
    for wanted in included:
        option = _known(offered, wanted["OptionName"])
        options[option.name] = options.get(option.name, {}) | _settings(option, wanted)
    after = msgspec.structs.replace(group, options=options)
    members = call.tx.find(DBInstance, call.scope, "option-group", group.option_group_name)
    if members and not request.get("ApplyImmediately"):
        raise invalid_combination(
            f"DB instances use the option group {group.option_group_name}, and here its options do not wait for their"
            " maintenance windows: set ApplyImmediately."
        )
    call.tx.put(after)
    for instance in members:
        request_refresh(call, instance)
    return {"OptionGroup": _show(call, after)}


def _offered(call: Call, engine: str) -> dict[str, EngineOption]:
    return {option.name: option for option in call.use(Engines).rules(engine).options()}


def _known(offered: Mapping[str, EngineOption], name: str) -> EngineOption:
    if name not in offered:
        raise invalid_value(f"Unknown option: {name[:64]}")
    return offered[name]


def _settings(option: EngineOption, wanted: Mapping[str, Any]) -> dict[str, str]:
    for member in ("Port", "OptionVersion", "DBSecurityGroupMemberships", "VpcSecurityGroupMemberships"):
        if wanted.get(member):
            raise invalid_value(f"The option {option.name} takes no {member}.")
    definitions = {setting.name: setting for setting in option.settings}
    chosen = {}
    for setting in wanted.get("OptionSettings") or ():
        name, value = str(setting.get("Name", "")), str(setting.get("Value", ""))
        if name not in definitions:
            raise invalid_value(f"Unknown setting of the option {option.name}: {name[:64]}")
        if is_formula(value):
            raise invalid_value(f"The setting {name} takes no formula.")
        check_value(definitions[name], value)
        chosen[name] = value
    return chosen


@handles("DeleteOptionGroup", on("og", "OptionGroupName"))
def delete_option_group(call: Call, request: Request) -> Result:
    """Forgets a group that no instance uses or is about to use, and no snapshot, manual or automated, remembers."""
    group = require_option_group(call, request["OptionGroupName"])
    name = group.option_group_name
    if group.is_default:
        raise invalid_value(f"The default option group {name} cannot be deleted.")
    if user := _user_of(call, name):
        raise ApiError(
            "InvalidOptionGroupStateFault",
            f"The option group '{name}' cannot be deleted because it is in use. It is associated with the {user}.",
        )
    call.tx.delete(group)
    return None


def _user_of(call: Call, name: str) -> str:
    """What the group of this name is associated with, in words; "" if with nothing."""
    for instance in call.tx.scan(DBInstance, call.scope):
        if name in (instance.option_group_name, instance.pending.option_group_name):
            return f"DB instance {instance.db_instance_identifier}"
    for snapshot in call.tx.scan(DBSnapshot, call.scope):
        if name == snapshot.facts.option_group_name:
            return f"{snapshot.snapshot_type} DB snapshot {snapshot.db_snapshot_identifier}"
    return ""


@handles("DescribeOptionGroups", on("og", "OptionGroupName"))
def describe_option_groups(call: Call, request: Request) -> Result:
    """One group, or those of an engine, or all of them, a page at a time."""
    named, engine, major = (request.get(key) for key in ("OptionGroupName", "EngineName", "MajorEngineVersion"))
    if named and (engine or major):
        raise invalid_combination("OptionGroupName cannot be specified together with EngineName or MajorEngineVersion.")
    if major and not engine:
        raise invalid_combination("EngineName must be specified when MajorEngineVersion is specified.")
    if named:
        groups = [require_option_group(call, named)]
    else:
        groups = [
            group
            for group in call.tx.scan(OptionGroup, call.scope)
            if engine in (None, "", group.engine_name) and major in (None, "", group.major_engine_version)
        ]
    shown, more = page(select(groups, request, NO_FILTERS), lambda group: group.option_group_name, request)
    return {"OptionGroupsList": [_show(call, group) for group in shown]} | more


@handles("DescribeOptionGroupOptions")
def describe_option_group_options(call: Call, request: Request) -> Result:
    """The options an engine offers, for each major version. Raises for one that does not exist here."""
    engine, major = request["EngineName"], request.get("MajorEngineVersion")
    offered = _offered(call, engine)
    if major:
        _check_major(call, engine, major)
    majors = [major] if major else _majors(call, engine)
    options = [_show_offered(option, engine, version) for version in majors for option in offered.values()]
    shown, more = page(select(options, request, NO_FILTERS), lambda option: str(option["Name"]), request)
    return {"OptionGroupOptions": shown} | more


def _check_major(call: Call, engine: str, major: str) -> None:
    installed = _majors(call, engine)
    if major not in installed:
        raise invalid_combination(
            f"Cannot find major version {major} for {engine}. Installed: {', '.join(installed) or 'none'}."
        )


def _majors(call: Call, engine: str) -> list[str]:
    known = call.use(Engines).rules(engine).name
    return sorted({build.major for build in builds_of(call, known, None)})


def _add(call: Call, group: OptionGroup) -> dict[str, Any]:
    if call.tx.get(OptionGroup, call.scope, group.option_group_name) is not None:
        raise ApiError(
            "OptionGroupAlreadyExistsFault", f"An option group named {group.option_group_name} already exists."
        )
    own = [present for present in call.tx.scan(OptionGroup, call.scope) if not present.is_default]
    require_room(len(own), OPTION_GROUPS, "OptionGroupQuotaExceededFault", "option groups")
    call.tx.insert(group)
    return {"OptionGroup": _show(call, group)}


def _show_offered(option: EngineOption, engine: str, major: str) -> dict[str, Any]:
    return {
        "Name": option.name,
        "Description": option.description,
        "EngineName": engine,
        "MajorEngineVersion": major,
        "PortRequired": False,
        "OptionsDependedOn": [],
        "OptionsConflictsWith": [],
        "Persistent": False,
        "Permanent": False,
        "RequiresAutoMinorEngineVersionUpgrade": False,
        "VpcOnly": False,
        "OptionGroupOptionSettings": [
            {
                "SettingName": setting.name,
                "SettingDescription": setting.description,
                "DefaultValue": setting.default or None,
                "ApplyType": setting.apply_type.upper(),
                "AllowedValues": setting.allowed_values or None,
                "IsModifiable": setting.is_modifiable,
                "IsRequired": False,
            }
            for setting in option.settings
        ],
    }


def _show_chosen(option: EngineOption, chosen: Mapping[str, str]) -> dict[str, Any]:
    return {
        "OptionName": option.name,
        "OptionDescription": option.description,
        "Persistent": False,
        "Permanent": False,
        "OptionSettings": [
            {
                "Name": setting.name,
                "Value": chosen.get(setting.name, setting.default) or None,
                "DefaultValue": setting.default or None,
                "Description": setting.description,
                "ApplyType": setting.apply_type.upper(),
                "DataType": "STRING" if setting.data_type == "list" else setting.data_type.upper(),
                "AllowedValues": setting.allowed_values or None,
                "IsModifiable": setting.is_modifiable,
                "IsCollection": setting.data_type == "list",
            }
            for setting in option.settings
        ],
        "DBSecurityGroupMemberships": [],
        "VpcSecurityGroupMemberships": [],
    }


def _show(call: Call, group: OptionGroup) -> dict[str, Any]:
    offered = _offered(call, group.engine_name)
    shown: dict[str, Any] = {
        "OptionGroupName": group.option_group_name,
        "OptionGroupDescription": group.description,
        "EngineName": group.engine_name,
        "MajorEngineVersion": group.major_engine_version,
        "Options": [_show_chosen(offered[name], chosen) for name, chosen in sorted(group.options.items())],
        "AllowsVpcAndNonVpcInstanceMemberships": True,
        "OptionGroupArn": group.arn,
    }
    if group.copied_at is not None:
        shown["SourceOptionGroup"] = group.source_option_group
        shown["SourceAccountId"] = group.scope.account_id
        shown["CopyTimestamp"] = group.copied_at
    return shown
