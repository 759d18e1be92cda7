"""Certificates for serving over https, which the AWS SDKs ask for before they send a bearer key."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from bx import disk

if TYPE_CHECKING:
    from pathlib import Path

_SET = "self-signed"  # the folder with the three files, which appear and are replaced together
_DAYS = 397  # some systems trust no certificate that is valid for longer
_SPARE = timedelta(days=30)
_PEM = "Give the certificate (with its chain) and its key, both as PEM files"


class TLSError(ValueError):
    """A certificate cannot be used or made; the message says why, `fix` what to do."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Certificate(NamedTuple):
    """Three PEM files. Clients trust `authority`: AWS_CA_BUNDLE and NODE_EXTRA_CA_CERTS take its path."""

    certificate: Path
    key: Path
    authority: Path


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Load a certificate with its chain, and its key, both PEM files, for a server.

    Raises:
        TLSError: a file is missing or no PEM file, the key is encrypted or another certificate's.
    """
    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as cause:
            raise TLSError(f"{path} cannot be read: {cause.strerror}", _PEM) from None

    def password() -> str:  # without which OpenSSL would ask at the terminal
        raise TLSError(
            f"The key in {key} is encrypted", f"Decrypt it: openssl pkey -in {key} -out plain.pem; then use plain.pem"
        )

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(certificate, key, password)
    except ssl.SSLError as cause:
        if cause.reason == "KEY_VALUES_MISMATCH":
            text = f"The key in {key} is not that of the certificate in {certificate}"
            raise TLSError(text, "Give the two that were made together") from None
        text = f"{certificate} and {key} cannot be used together: {cause.reason or cause}"
        raise TLSError(text, _PEM) from None
    return made


def self_signed(folder: Path, hosts: list[str]) -> Certificate:
    """Return a certificate for a server's names, with its own authority; made where the folder has none that will do.

    The one in the folder will do while it names all the hosts and is valid for 30 days more. The authority's own key
    is not kept: nobody can make another certificate that its file vouches for.

    Args:
        folder: where the files are kept, in a folder of their own.
        hosts: names and addresses that clients call the server by, at least one.

    Raises:
        TLSError: the library that makes certificates is not installed, a host is no name or address, or the folder
            cannot be written.
    """
    place = folder / _SET
    files = Certificate(*(place / f"{name}.pem" for name in Certificate._fields))
    try:
        with disk.workshop(folder, _SET, waiting=lambda: None) as room:
            if not _will_do(files, hosts):
                new = room / "new"
                new.mkdir(0o700)
                for name, pem in zip(Certificate._fields, _made(hosts), strict=True):
                    disk.write([pem], new / f"{name}.pem")
                disk.settle(new, place)
    except ImportError as cause:
        raise TLSError(
            f"{cause.name} is not installed, which makes certificates", "pip install 'bedrock-bx[serve]'"
        ) from None
    except OSError as cause:
        text = f"The certificate cannot be kept in {folder}: {cause.strerror or cause}"
        raise TLSError(text, "Choose a folder that you may write to") from None
    return files


def _made(hosts: list[str]) -> tuple[bytes, bytes, bytes]:
    """Make a certificate, its key, and the certificate of its authority."""
    import trustme

    authority = trustme.CA(organization_name="bx serve", path_length=0)
    now = datetime.now(UTC)
    try:
        leaf = authority.issue_cert(
            *hosts,
            organization_name="bx serve",
            not_before=now - timedelta(days=1),  # clocks differ
            not_after=now + timedelta(days=_DAYS),
        )
    except ValueError as cause:
        text = f"No certificate can be made for {', '.join(hosts) or 'no host'}: {cause}"
        raise TLSError(text, "Give the names and addresses that clients call the server by") from None
    return leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes(), authority.cert_pem.bytes()


def _will_do(files: Certificate, hosts: list[str]) -> bool:
    """Whether the files are there, belong together, and are good for the hosts and for a while."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        context(files.certificate, files.key)
        leaf, authority = (
            x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.certificate, files.authority)
        )
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, OSError, InvalidSignature, x509.ExtensionNotFound):  # damaged: made anew
        return False
    known = set(names.get_values_for_type(x509.DNSName)) | set(map(str, names.get_values_for_type(x509.IPAddress)))
    return {_spelled(host) for host in hosts} <= known and leaf.not_valid_after_utc - _SPARE > datetime.now(UTC)


def _spelled(host: str) -> str:
    """Spell a host as a certificate does."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower() if host.isascii() else host.encode("idna").decode()
