"""A remote object storage is used with credentials that were given to it, or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mainstay.backups.credentials import require_credentials
from mainstay.backups.objects import open_objects, probe_object_storage
from mainstay.cli.doctor import _object_storage
from mainstay.cli.service import start
from mainstay.model.errors import Permanent, Transient
from mainstay.settings import Settings, load_settings

KEYS = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "hush-hush"}
ENOUGH: list[tuple[str, dict[str, str]]] = [
    ("s3", KEYS),
    ("s3", {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}),
    ("s3", {"aws_skip_signature": "true"}),
    ("gs", {"google_service_account": "/etc/key.json"}),
    ("gs", {"service_account_key": "{}"}),
    ("az", {"azure_storage_account_name": "n", "azure_storage_account_key": "k"}),
    ("az", {"azure_client_id": "c", "azure_client_secret": "s", "azure_tenant_id": "t"}),
    ("az", {"sas_token": "s"}),
]
TOO_LITTLE: list[tuple[str, dict[str, str], str]] = [
    ("s3", {}, "no credentials"),
    ("s3", {"aws_region": "eu-west-1", "aws_endpoint": "https://x"}, "no credentials"),
    ("s3", {"aws_access_key_id": "AKIA"}, "aws_secret_access_key missing"),
    ("s3", {"aws_access_key_id": "AKIA", "aws_secret_access_key": " "}, "aws_secret_access_key missing"),
    ("s3", {"aws_skip_signature": "false"}, "no credentials"),
    ("s3", KEYS | {"aws_imdsv1_fallback": "true"}, "would ask this host"),
    ("s3", {"aws_container_credentials_relative_uri": "/x"}, "would ask this host"),
    ("gs", {}, "no credentials"),
    ("az", {"azure_storage_account_name": "n"}, "no credentials"),
    ("az", {"azure_client_id": "c", "azure_msi_endpoint": "http://169.254.169.254"}, "would ask this host"),
]


@pytest.mark.parametrize(("scheme", "options"), ENOUGH)
def test_what_is_enough(scheme: str, options: dict[str, str]) -> None:
    require_credentials(scheme, options)


@pytest.mark.parametrize(("scheme", "options", "told"), TOO_LITTLE)
def test_what_is_not_is_refused_before_anybody_is_asked(
    scheme: str, options: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mainstay.backups import remote_objects

    def used(*_: Any) -> None:
        raise AssertionError("the library was used")

    monkeypatch.setattr(remote_objects, "from_url", used)
    with pytest.raises(Permanent, match=told) as caught:
        open_objects(f"{scheme}://backups/here", options)
    assert "object_storage_options" in caught.value.hint and "hush" not in str(caught.value) + caught.value.hint


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that knows nobody."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>InvalidAccessKeyId</Code><Message>Who are you?</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def settings(tmp_path: Path, options: dict[str, str] | None) -> Settings:
    """Of a service whose object storage has these options."""
    wanted = {"object_storage": "s3://backups/here"}
    if options is not None:
        file = tmp_path / "s3.toml"
        file.touch(mode=0o600)
        file.write_text("".join(f'{name} = "{value}"\n' for name, value in options.items()))
        wanted["object_storage_options"] = str(file)
    return load_settings({"MAINSTAY_HOME": str(tmp_path / "home")}, **wanted)


def test_up_and_doctor_refuse_a_storage_that_refuses_us(tmp_path: Path, refusing: str) -> None:
    given = settings(tmp_path, KEYS | {"aws_endpoint": refusing})
    with pytest.raises(Permanent, match="the object storage refused s3://backups/here"):
        start(given, detach=True)
    found = _object_storage(given)
    assert found.level == "bad" and "refused" in found.text and "Check the credentials" in found.remedy
    assert not (tmp_path / "home" / "control").exists(), "nothing was started"


def test_up_and_doctor_refuse_a_storage_without_credentials(tmp_path: Path) -> None:
    given = settings(tmp_path, None)
    with pytest.raises(Permanent, match="no credentials"):
        start(given, detach=True)
    assert _object_storage(given).level == "bad"


def test_a_storage_that_is_away_is_not_refused(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        given = settings(tmp_path, KEYS | {"aws_endpoint": f"http://127.0.0.1:{closed.getsockname()[1]}"})
        with pytest.raises(Transient, match="failed at"):
            probe_object_storage(given)


def test_a_directory_needs_nothing(tmp_path: Path) -> None:
    probe_object_storage(load_settings({"MAINSTAY_HOME": str(tmp_path)}))
