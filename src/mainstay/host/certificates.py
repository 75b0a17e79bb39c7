"""The service's own certificate authority, and the server certificates it issues.

The authority's key lives in a file of its own (mode 0600) and never leaves this process. RFC 5280; lifetimes as on RDS:
the authority for 40 years, server certificates for one year (RDS user guide, "Using SSL/TLS to encrypt a connection").
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from functools import lru_cache
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mainstay.host.clock import Clock
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.model.node import ServerCertificate

CA_IDENTIFIER = "rds-ca-rsa2048-g1"
CA_YEARS = 40
SERVER_DAYS = 365
RENEW_BEFORE_S = 30 * 24 * 3600.0
"""A server certificate that ends within this time is replaced."""

BACKDATE = datetime.timedelta(minutes=10)
COMMON_NAME_LENGTH_MAX = 64
USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""An engine is a client too: it shows its certificate where it asks about IAM logins."""


class AuthorityDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What DescribeCertificates tells. Times are epoch seconds; the thumbprint is SHA-1, as AWS shows it."""

    identifier: str
    thumbprint: str
    valid_from: float
    valid_till: float


@lru_cache(maxsize=4096)
def valid_till(certificate_pem: str) -> float:
    """When a certificate ends, epoch seconds; of a chain, the server's own, which comes first."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc.timestamp()


def ends_soon(certificate_pem: str, now: float) -> bool:
    """Whether a server certificate must be replaced; `now` is epoch seconds."""
    return valid_till(certificate_pem) - RENEW_BEFORE_S < now


class CertificateAuthorities:
    """The authorities of this service; today one, named like RDS's default."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        make_private_directory(directory)
        self.bundle_path = directory / "global-bundle.pem"
        self._key, self._certificate = self._load_or_make()
        if not self.bundle_path.exists() or self.bundle_path.read_bytes() != self.bundle_pem.encode():
            write_atomically(self.bundle_path, self.bundle_pem.encode(), mode=0o644)

    @property
    def default_identifier(self) -> str:
        """CACertificateIdentifier of an instance that asks for none."""
        return CA_IDENTIFIER

    @property
    def bundle_pem(self) -> str:
        """All authorities' certificates: what clients verify against."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def described(self) -> list[AuthorityDescription]:
        """Every authority."""
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        return [
            AuthorityDescription(
                identifier=CA_IDENTIFIER,
                thumbprint=hashlib.sha1(der, usedforsecurity=False).hexdigest(),
                valid_from=self._certificate.not_valid_before_utc.timestamp(),
                valid_till=self._certificate.not_valid_after_utc.timestamp(),
            )
        ]

    def issue(self, names: tuple[str, ...], addresses: tuple[str, ...]) -> tuple[ServerCertificate, float]:
        """A new key and certificate for these names and addresses, and until when it is valid (epoch seconds)."""
        # P-256: a key in 0.1 ms instead of 60 ms for RSA-2048, and a shorter handshake; every current driver takes it.
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.fromtimestamp(self._clock.wall(), datetime.UTC)
        until = now + datetime.timedelta(days=SERVER_DAYS)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        common_name = next((name for name in names if len(name) <= COMMON_NAME_LENGTH_MAX), "mainstay")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(until)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(USAGES), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return (
            ServerCertificate(
                certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode() + self.bundle_pem,
                private_key_pem=_private_pem(key),
                ca_pem=self.bundle_pem,
            ),
            until.timestamp(),
        )

    def _load_or_make(self) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
        path = self._directory / f"{CA_IDENTIFIER}.pem"
        if path.exists():
            pem = path.read_bytes()
            key = serialization.load_pem_private_key(pem, password=None)
            assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101 - we wrote the file
            return key, x509.load_pem_x509_certificate(pem)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = self._self_signed(key)
        write_atomically(path, _private_pem(key).encode() + certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate

    def _self_signed(self, key: rsa.RSAPrivateKey) -> x509.Certificate:
        now = datetime.datetime.fromtimestamp(self._clock.wall(), datetime.UTC)
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Mainstay"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Mainstay {CA_IDENTIFIER} Root CA"),
            ]
        )
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_agreement=False,
            key_encipherment=False, data_encipherment=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + datetime.timedelta(days=365 * CA_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )


def _private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
