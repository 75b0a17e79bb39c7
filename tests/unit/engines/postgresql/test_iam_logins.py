"""The lines of pg_hba.conf and the environment that make PostgreSQL ask about IAM logins."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.configuration import render
from mainstay.engines.postgresql.iam_logins import NOBODY, PASSWORD_USERS, TOKEN_USERS, _list, environment
from mainstay.model.assignment import Assignment
from mainstay.model.node import MasterUser, NodeEndpoint, NodeLimits, NodeSpec, NodeTarget, ServerCertificate
from mainstay.model.records import Scope

SPEC = NodeSpec(
    node_id="node-1", scope=Scope("123456789012", "us-east-1"), dbi_resource_id="db-ABC",
    db_instance_identifier="db1", availability_zone="us-east-1a", target=NodeTarget.RUNNING, engine="postgres",
    engine_version="17.5", listen_address="127.96.0.1", port=5432,
    endpoint=NodeEndpoint(endpoint_id="db-ABC", address="127.64.0.1", port=5432, name="db1", admits=()),
    parameters={}, require_tls=True, master=MasterUser("app", "v"), database="",
    certificate=ServerCertificate("c", "k", "ca"), limits=NodeLimits(memory_bytes=1 << 30, vcpus=2),
)  # fmt: skip
BY_TOKEN = 'ldap ldapscheme=ldaps ldapserver=127.0.0.1 ldapport=12345 ldapprefix="dbuser:db-ABC/"'


def rendered(tmp_path: Path, *, port: int, require_tls: bool) -> dict[str, str]:
    spec = msgspec.structs.replace(SPEC, iam_login_port=port, require_tls=require_tls)
    return render(spec, Assignment(), NodeFiles(root=tmp_path, sockets=tmp_path), (), {})


def rows(text: str) -> list[str]:
    """The lines that TCP clients meet, after rdsadmin's."""
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("hostssl") or "nossl" in line]


@pytest.mark.parametrize("require_tls", [True, False])
def test_members_meet_the_token_before_any_password(tmp_path: Path, require_tls: bool) -> None:
    plain = [] if require_tls else ["hostnossl all +rds_superuser all md5"]
    listed = [] if require_tls else [f"hostnossl all @{PASSWORD_USERS} all md5"]
    others = [] if require_tls else ["hostnossl all all all md5"]
    assert rows(rendered(tmp_path, port=12345, require_tls=require_tls)["pg_hba.conf"]) == [
        f"hostssl all @{TOKEN_USERS} all {BY_TOKEN}",
        f"hostnossl all @{TOKEN_USERS} all reject",
        "hostssl all +rds_superuser all md5",
        *plain,
        f"hostssl all @{PASSWORD_USERS} all md5",
        *listed,
        f"hostssl all +rds_iam all {BY_TOKEN}",
        "hostnossl all +rds_iam all reject",
        "hostssl all all all md5",
        *others,
    ]


@pytest.mark.parametrize("port", [0, 12345])
def test_md5_passwords_can_be_shut_out(tmp_path: Path, port: int) -> None:
    spec = msgspec.structs.replace(SPEC, iam_login_port=port, require_tls=False, refuses_old_passwords=True)
    text = render(spec, Assignment(), NodeFiles(root=tmp_path, sockets=tmp_path), (), {})["pg_hba.conf"]
    assert " md5" not in text and "hostssl all all all scram-sha-256" in rows(text)


def test_rdsadmin_is_refused_before(tmp_path: Path) -> None:
    """The lists that the first lines name always hold rdsadmin."""
    text = rendered(tmp_path, port=12345, require_tls=True)["pg_hba.conf"]
    lines = [line.split() for line in text.splitlines()]
    assert lines.index(["host", "all", "rdsadmin", "all", "reject"]) < text[: text.index("@")].count("\n")


def test_nothing_of_it_where_it_is_not_enabled(tmp_path: Path) -> None:
    assert "ldap" not in rendered(tmp_path, port=0, require_tls=False)["pg_hba.conf"]


def test_lists_are_there_from_the_start_and_kept(tmp_path: Path) -> None:
    files = rendered(tmp_path, port=12345, require_tls=True)
    assert files[TOKEN_USERS] == files[PASSWORD_USERS] == NOBODY
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / TOKEN_USERS).write_text(NOBODY + '"app"\n')
    again = rendered(tmp_path, port=12345, require_tls=True)
    assert (again[TOKEN_USERS], again[PASSWORD_USERS]) == (NOBODY + '"app"\n', NOBODY)


def test_names_are_quoted_and_those_that_cannot_be_are_left_out() -> None:
    assert _list(['a"b', "+all", "@x", "a,b c#"]) == NOBODY + '"a""b"\n"+all"\n"@x"\n"a,b c#"\n'
    assert _list(["/.*", "a\nb", "tab\t"]) == NOBODY


def test_libldap_believes_the_service_s_authority_alone() -> None:
    told = environment(NodeFiles(root=Path("/node"), sockets=Path("/run/node")))
    assert told["LDAPTLS_REQCERT"] == "demand" and told["LDAPTLS_CACERT"] == "/node/conf/ca.crt"
    assert (told["LDAPTLS_CERT"], told["LDAPTLS_KEY"]) == ("/node/conf/server.crt", "/node/conf/server.key")
