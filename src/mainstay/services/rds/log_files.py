"""DescribeDBLogFiles and DownloadDBLogFilePortion: the agent reads the files, so these two wait for it."""

from __future__ import annotations

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError, Permanent, invalid_value
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.db_instances import find_instance
from mainstay.services.rds.demands import on
from mainstay.services.rds.paging import page
from mainstay.services.rds.table import handles
from mainstay.workflows.fleet import Fleet, leader_id

LINES_MAX = 10_000


@handles("DescribeDBLogFiles", on("db", "DBInstanceIdentifier"), opens_transaction=False)
async def describe_db_log_files(call: Call, request: Request) -> Result:
    """Log files, filtered by name, time of last change and size."""
    instance = _instance(call, request)
    contains = request.get("FilenameContains") or ""
    newer_than_ms, larger_than = request.get("FileLastWritten") or 0, request.get("FileSize") or 0
    files = await _fleet(call).list_logs(leader_id(_fleet(call), instance))
    matching = [
        {"LogFileName": file["name"], "LastWritten": file["last_written_ms"], "Size": file["size_bytes"]}
        for file in files
        if contains in file["name"] and file["last_written_ms"] >= newer_than_ms and file["size_bytes"] >= larger_than
    ]
    shown, more = page(matching, lambda one: str(one["LogFileName"]), request)
    return {"DescribeDBLogFiles": shown} | more


@handles("DownloadDBLogFilePortion", on("db", "DBInstanceIdentifier"), opens_transaction=False)
async def download_db_log_file_portion(call: Call, request: Request) -> Result:
    """At most 1 MB and `NumberOfLines` lines of a log file, from the marker on, or its end without one."""
    instance = _instance(call, request)
    lines = request.get("NumberOfLines")
    if lines is not None and not 1 <= lines <= LINES_MAX:
        raise invalid_value(f"NumberOfLines must be between 1 and {LINES_MAX}.")
    try:
        portion = await _fleet(call).read_log(
            leader_id(_fleet(call), instance), request["LogFileName"], request.get("Marker") or None, lines
        )
    except Permanent as error:
        if "marker" in error.message:
            raise invalid_value(f"Invalid Marker: {str(request.get('Marker'))[:64]}") from error
        raise ApiError("DBLogFileNotFoundFault", f"DBLog File: {request['LogFileName']} is not found") from error
    return {
        "LogFileData": portion["data"],
        "Marker": portion["marker"],
        "AdditionalDataPending": portion["pending"],
    }


def _instance(call: Call, request: Request) -> DBInstance:
    return find_instance(call, request["DBInstanceIdentifier"])


def _fleet(call: Call) -> Fleet:
    fleet: Fleet = call.use(Fleet)  # type: ignore[type-abstract]  # the Protocol is the key of the collaborator
    return fleet
