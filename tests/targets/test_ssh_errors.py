"""What ssh says becomes what a person can do, and names no address. The texts are OpenSSH 9.2's own."""

from __future__ import annotations

import pytest

from edgekd.targets.ssh_errors import explain, not_written, redact
from tests.targets.test_host_keys import ECDSA_PRINT, ED25519_PRINT

SECRETS = ["pi5.secret.lan", "192.0.2.7"]
CHANGED = f"""@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
The fingerprint for the ED25519 key sent by the remote host is
{ECDSA_PRINT}.
Please contact your system administrator.
Host key for edgekd-pi5 has changed and you have requested strict checking.
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("ssh: Could not resolve hostname pi5.secret.lan: Name or service not known", "name is not known"),
        ("ssh: connect to host 192.0.2.7 port 2222: Connection refused", "refuses the connection"),
        ("ssh: connect to host 192.0.2.7 port 22: Connection timed out", "cannot be reached"),
        ("ssh: connect to host 192.0.2.7 port 22: No route to host", "cannot be reached"),
        ("Connection timed out during banner exchange", "cannot be reached"),
        ("pi@192.0.2.7: Permission denied (publickey).", "does not accept this user's key"),
        ("Received disconnect from 192.0.2.7 port 22:2: Too many authentication failures", "too many keys"),
        ("Timeout, server 192.0.2.7 not responding.", "link to it was lost"),
        ("Connection to 192.0.2.7 closed by remote host.", "link to it was lost"),
        ("client_loop: send disconnect: Broken pipe", "link to it was lost"),
        ("kex_exchange_identification: Connection closed by remote host", "before the login"),
        ("Connection closed by 192.0.2.7 port 22", "closed the connection before the login"),
        (
            "Warning: Identity file /x not accessible: No such file\npi@h: Permission denied",
            "key's file is not",
        ),
        (
            "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nPermission denied (publickey)",
            "may be read by others",
        ),
    ],
)
def test_what_ssh_says_is_explained(said: str, meant: str) -> None:
    error = explain(said, "pi5", ED25519_PRINT, SECRETS)
    assert meant in error.what
    assert error.fix
    assert error.exit_code == 4
    for secret in (*SECRETS, "2222"):
        assert secret not in str(error)


def test_a_changed_key_names_both_and_how_to_pin_the_new_one() -> None:
    text = str(explain(CHANGED, "pi5", ED25519_PRINT, SECRETS))
    assert ED25519_PRINT in text and ECDSA_PRINT in text
    assert "edgekd device add pi5" in text


def test_a_key_of_another_type_is_another_key() -> None:
    said = (
        "Unable to negotiate with 192.0.2.7 port 22: no matching host key type found. "
        "Their offer: rsa-sha2-512,rsa-sha2-256"
    )
    text = str(explain(said, "pi5", ED25519_PRINT, SECRETS))
    assert "no host key of the pinned type" in text and "192.0.2.7" not in text


def test_what_is_not_known_is_told_without_addresses() -> None:
    said = "Something odd, pi@pi5.secret.lan (192.0.2.7, fe80::12:34%eth0, 2001:db8::1) port 2222 at 12:34:56"
    text = str(explain(said, "pi5", ED25519_PRINT, SECRETS))
    assert "Something odd" in text and "12:34:56" in text
    for secret in (*SECRETS, "2222", "fe80", "2001", "pi@"):
        assert secret not in text


def test_nothing_said_is_told_as_well() -> None:
    assert "without a word" in explain("", "pi5", ED25519_PRINT, SECRETS).what


def test_words_that_only_contain_a_name_stay() -> None:
    assert redact("python3 pip pi piano", ["pi"]) == "python3 pip <address> piano"


FULL = """cat: write error: No space left on device
/dev/mmcblk0p2        30000000  29999000        1000     100% /
"""


def test_a_full_disk_says_so_and_how_full() -> None:
    error = not_written(FULL, "pi5", "model.onnx", 5_000_000)
    assert error.what == "cannot push model.onnx (5.0 MB): its disk is full, 1.0 MB free"
    assert "device clean pi5" in (error.fix or "")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("sh: 1: cannot create /x: Permission denied\nFilesystem\n", "Permission denied"),
        ("cat: /x: Read-only file system", "Read-only file system"),
        ("", "did not arrive whole"),
    ],
)
def test_other_reasons_are_told(said: str, reason: str) -> None:
    assert reason in not_written(said, "pi5", "model.onnx", 5).what
