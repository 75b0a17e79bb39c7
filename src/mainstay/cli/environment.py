"""`mainstay env`: what a shell needs to point the aws CLI, boto3, Terraform and psql at this service."""

from __future__ import annotations

import shlex

from mainstay.cli.service import endpoint_url
from mainstay.model.errors import Permanent
from mainstay.settings import Settings


def variables(settings: Settings) -> dict[str, str]:
    """The variables by name. Raises `Permanent` before the first start, when there is no access key yet."""
    path = settings.home / "credentials"
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise Permanent(f"there is no {path} yet", hint="Start the service once with `mainstay up`.") from error
    except PermissionError as error:
        raise Permanent(f"{path} belongs to another user", hint="Run this as the user the service runs as.") from error
    keys = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    found = {
        "AWS_ENDPOINT_URL": endpoint_url(settings),
        **keys,
        "AWS_DEFAULT_REGION": settings.region,
        "MAINSTAY_CA_BUNDLE": str(settings.home / "ca-bundle.pem"),
    }
    if found["AWS_ENDPOINT_URL"].startswith("https"):
        found["AWS_CA_BUNDLE"] = found["MAINSTAY_CA_BUNDLE"]
    return found


def show_environment(settings: Settings) -> None:
    """Prints `export NAME=value` lines, quoted for the shell."""
    for name, value in variables(settings).items():
        print(f"export {name}={shlex.quote(value)}")
