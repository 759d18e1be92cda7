"""Certificates: a real client that trusts the authority connects, and what cannot work is explained at the start."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509

from bx import diagnosis
from bx.server import tls

HOSTS = ["localhost", "127.0.0.1", "::1"]


def told(call, *arguments):
    with pytest.raises(tls.TLSError) as failed:
        call(*arguments)
    told = diagnosis.explain(failed.value)
    assert told.exit_code == 2
    assert told.fix
    return told.what


def shaken(served, authority, *, host="localhost"):
    """Connect a client that trusts an authority to a server; returns the client's protocol, or its error."""
    ours, theirs = socket.socketpair()
    failures = []

    def serve():
        try:
            with served.wrap_socket(theirs, server_side=True) as connection:
                connection.recv(1)
        except ssl.SSLError as failure:
            failures.append(failure)

    server = threading.Thread(target=serve)
    server.start()
    client = ssl.create_default_context(cafile=authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # what newer Pythons ask for by default
    try:
        with client.wrap_socket(ours, server_hostname=host) as connection:
            connection.send(b"x")
            return connection.version()
    finally:
        ours.close()
        server.join()
        theirs.close()


# ---- certificates that are given ------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path):
    """A certificate and key that a user brought along, and the authority."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    certificate, key, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return certificate, key, ca


def test_a_client_connects_to_a_given_certificate(given):
    certificate, key, authority = given
    assert shaken(tls.context(certificate, key), authority) == "TLSv1.3"


def test_a_file_that_is_missing_is_named(given, tmp_path):
    certificate, key, _ = given
    none = tmp_path / "none.pem"
    assert str(none) in told(tls.context, none, key)
    assert str(none) in told(tls.context, certificate, none)


def test_a_key_of_another_certificate_is_told(given, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    assert "not that of the certificate" in told(tls.context, given[0], other)


@pytest.mark.parametrize(
    "text", ["", "no PEM at all", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_no_pem_is_told(given, tmp_path, text):
    odd = tmp_path / "odd.pem"
    odd.write_text(text)
    assert str(odd) in told(tls.context, odd, given[1])
    assert str(odd) in told(tls.context, given[0], odd)


def test_an_encrypted_key_is_told_and_nothing_is_asked_at_the_terminal(given, tmp_path):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(given[1].read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "encrypted" in told(tls.context, given[0], encrypted)


# ---- certificates that are made -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_that_trusts_the_authority_connects_by_every_name(tmp_path, host):
    certificate, key, authority = tls.self_signed(tmp_path / "tls", HOSTS)
    assert shaken(tls.context(certificate, key), authority, host=host) == "TLSv1.3"


def test_a_client_that_calls_by_another_name_or_trusts_another_authority_does_not_connect(tmp_path):
    made, other = (tls.self_signed(tmp_path / name, ["localhost"]) for name in ("a", "b"))
    served = tls.context(made.certificate, made.key)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shaken(served, made.authority, host="example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(served, other.authority)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_files_are_the_users_alone(tmp_path):
    files = tls.self_signed(tmp_path / "tls", HOSTS)
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 3
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    assert files.key.parent.stat().st_mode & 0o777 == 0o700


def test_the_key_of_the_authority_is_not_kept(tmp_path):
    files = tls.self_signed(tmp_path / "tls", HOSTS)
    kept = [path for path in (tmp_path / "tls").rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert kept == [files.key]


def contents(files):
    return [path.read_bytes() for path in files]


def test_what_is_in_the_folder_serves_again(tmp_path):
    first = contents(tls.self_signed(tmp_path, ["localhost", "127.0.0.1", "bücher.example"]))
    assert contents(tls.self_signed(tmp_path, ["127.0.0.1"])) == first
    assert contents(tls.self_signed(tmp_path, ["LOCALHOST", "bücher.example"])) == first


def test_another_host_makes_another_certificate_in_the_same_place(tmp_path):
    before = tls.self_signed(tmp_path, ["localhost"])
    first = contents(before)
    after = tls.self_signed(tmp_path, ["localhost", "192.0.2.1"])
    assert after == before
    assert contents(after) != first
    assert shaken(tls.context(after.certificate, after.key), after.authority, host="192.0.2.1")


@pytest.mark.parametrize("days", [29, -1])
def test_a_certificate_that_soon_expires_is_made_anew(tmp_path, days):
    files = tls.self_signed(tmp_path, ["localhost"])
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=days))
    leaf.cert_chain_pems[0].write_to_path(files.certificate)
    leaf.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.authority)
    tls.self_signed(tmp_path, ["localhost"])
    made = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    left = made.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=390) < left < timedelta(days=398)


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
@pytest.mark.parametrize("damage", ["missing", "damaged", "another's"])
def test_files_that_are_damaged_are_made_anew(tmp_path, name, damage):
    files = tls.self_signed(tmp_path / "a", ["localhost"])
    path = getattr(files, name)
    if damage == "missing":
        path.unlink()
    else:
        other = getattr(tls.self_signed(tmp_path / "b", ["localhost"]), name)
        path.write_bytes(b"damaged" if damage == "damaged" else other.read_bytes())
    assert tls.self_signed(tmp_path / "a", ["localhost"]) == files
    assert shaken(tls.context(files.certificate, files.key), files.authority)


def test_servers_that_start_at_once_share_one_set_of_files(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(contents(tls.self_signed(tmp_path, ["localhost"]))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("hosts", [[], ["not a name"], ["a..b"]])
def test_what_is_no_host_is_told(tmp_path, hosts):
    assert "No certificate can be made" in told(tls.self_signed, tmp_path, hosts)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be kept" in told(tls.self_signed, tmp_path / "file" / "tls", ["localhost"])


def test_without_the_extra_the_cure_is_told(tmp_path):
    program = (
        "import sys; sys.modules['trustme'] = None\n"
        "from pathlib import Path; from bx.server import tls\n"
        "try: tls.self_signed(Path(sys.argv[1]), ['localhost'])\n"
        "except tls.TLSError as failed: print(failed, failed.fix)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "trustme is not installed, which makes certificates pip install 'bedrock-bx[serve]'\n"
