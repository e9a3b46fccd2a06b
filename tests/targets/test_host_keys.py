"""Host keys as ssh writes them, and the fingerprints that people compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.targets.host_keys import given_key, parse_key, read_keys
from edgekd.targets.ssh import SshTarget

# Made with ssh-keygen; the fingerprints are what `ssh-keygen -lf` printed.
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvC6CjOgNxfwIb5sXOTCpGBssKIN8DrKyJfl4bQOefg"
ED25519_PRINT = "SHA256:KHaG8drS4DE5OIfyljXdrH4EuJUJXLINeFq4uDy2u0w"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNoW5QeYnIwPsyV75uNinr76KYm9SanV"
    "ARKJVmCC0w5/jwa5HOw5RXleKRUkJLBuq/4zmYELo12rmD5gmwn6fP0="
)
ECDSA_PRINT = "SHA256:3tdpA/DZ57SWeiOtFYIkQb/GvKw/GWAcM1+IicdL8R4"


@pytest.mark.parametrize(("line", "fingerprint"), [(ED25519, ED25519_PRINT), (ECDSA, ECDSA_PRINT)])
@pytest.mark.parametrize("form", ["{}", "{} root@pi5", "[192.0.2.1]:22 {}", "@cert-authority * {} x"])
def test_a_key_and_its_fingerprint_are_those_of_ssh_keygen(line: str, fingerprint: str, form: str) -> None:
    key = parse_key(form.format(line))
    assert key.line == line
    assert key.fingerprint == fingerprint


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-dss AAAA",
        "ssh-ed25519",
        "ssh-ed25519 not*base64",
        ED25519.replace("ssh-ed25519", "ssh-rsa"),
        ED25519[:20],
    ],
)
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="host key"):
        parse_key(line)


def test_the_strongest_kind_comes_first() -> None:
    text = f"# pi5:22 SSH-2.0-OpenSSH_9.2p1\npi5 {ECDSA}\npi5 {ED25519}\npi5 ssh-dss AAAA\n\n"
    assert [key.kind for key in read_keys(text)] == ["ssh-ed25519", "ecdsa-sha2-nistp256"]


def test_a_key_may_be_given_as_a_line_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{ED25519} root@pi5\n")
    assert given_key(ED25519) == given_key(str(tmp_path / "key.pub"))
    (tmp_path / "other").write_text("nothing")
    for wrong in (str(tmp_path / "absent"), str(tmp_path / "other"), "\0"):
        with pytest.raises(UsageError, match=r"ssh_host_ed25519_key\.pub"):
            given_key(wrong)


def test_rsa_keys_are_accepted_with_modern_signatures_only() -> None:
    blob = "AAAAB3NzaC1yc2E="
    assert parse_key(f"ssh-rsa {blob}").algorithms == "rsa-sha2-512,rsa-sha2-256"


def test_a_fingerprint_of_another_key_is_refused() -> None:
    SshTarget(name="pi5", host_key=ED25519, fingerprint=ED25519_PRINT)
    with pytest.raises(ValidationError, match="do not belong together"):
        SshTarget(name="pi5", host_key=ED25519, fingerprint=ECDSA_PRINT)
    with pytest.raises(ValidationError, match="no host key"):
        SshTarget(name="pi5", host_key="", fingerprint=ECDSA_PRINT)
