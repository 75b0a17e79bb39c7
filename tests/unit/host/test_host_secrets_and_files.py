"""Vault, atomic files, locks and certificates."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SimulatedClock
from mainstay.host.files import write_atomically
from mainstay.host.locks import ProcessLock, holder
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.errors import Permanent


def test_a_secret_opens_only_in_its_context_and_unaltered(tmp_path: Path) -> None:
    vault = Vault.open_file(tmp_path / "master.key", SeededRandomness(1))
    sealed = vault.seal("hunter2", "access-key:A")
    assert "hunter2" not in sealed
    assert vault.unseal(sealed, "access-key:A") == "hunter2"
    assert Vault.open_file(tmp_path / "master.key", SeededRandomness(2)).unseal(sealed, "access-key:A") == "hunter2"
    with pytest.raises(Permanent):
        vault.unseal(sealed, "access-key:B")
    with pytest.raises(Permanent):
        vault.unseal(sealed[:-6] + ("AAAAA=" if not sealed.endswith("AAAAA=") else "BBBBB="), "access-key:A")
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600


def test_a_damaged_master_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_bytes(b"short")
    with pytest.raises(Permanent, match="32 bytes"):
        Vault.open_file(tmp_path / "master.key", SeededRandomness(1))


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [child.name for child in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    assert holder(path) is None
    script = (
        "import sys, time; from pathlib import Path; from mainstay.host.locks import ProcessLock;"
        "lock = ProcessLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert holder(path) == process.pid
        with pytest.raises(Permanent, match=f"pid {process.pid}"):
            ProcessLock(path).acquire()
        process.kill()
    assert holder(path) is None


def test_server_certificates_verify_for_their_name_and_address_only(tmp_path: Path) -> None:
    clock = SimulatedClock()
    authorities = CertificateAuthorities(tmp_path / "ca", clock)
    issued, until = authorities.issue(("db.example.internal",), ("127.64.0.5",))
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["db.example.internal"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.64.0.5"]
    assert abs(until - clock.wall() - 365 * 86400) < 60
    root = x509.load_pem_x509_certificate(authorities.bundle_pem.encode())
    certificate.verify_directly_issued_by(root)
    ssl.create_default_context(cafile=str(authorities.bundle_path))
    again = CertificateAuthorities(tmp_path / "ca", clock)
    assert again.bundle_pem == authorities.bundle_pem
    assert stat.S_IMODE((tmp_path / "ca" / "rds-ca-rsa2048-g1.pem").stat().st_mode) == 0o600
