"""openssl s_client: what the handshake shows and refuses."""

import subprocess

import pytest

UNRECOGNIZED_NAME = "alert number 112"


def s_client(edge, *arguments):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{edge.ports['https']}"]
    command += ["-CAfile", edge.ca, *arguments]
    got = subprocess.run(command, input=b"", capture_output=True, timeout=20)
    return (got.stdout + got.stderr).decode(errors="replace")


def fingerprint(text):
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("name", "credential"),
    [
        ("shop.example.com", "shop-tls"),
        ("live.shop.example.com", "shop-tls"),
        ("admin.example.com", "admin-tls"),
        ("legacy.example.com", "legacy"),
    ],
)
def test_the_name_picks_the_certificate(edge, name, credential):
    said = s_client(edge, "-servername", name, "-verify_return_error")
    own = (edge.folder / "certs" / credential / "tls.crt").read_text()
    assert fingerprint(said) == fingerprint(own)
    assert "Verify return code: 0 (ok)" in said


@pytest.mark.parametrize("name", [["-servername", "nobody.example.com"], ["-noservername"]])
def test_an_unknown_name_ends_with_an_alert(edge, name):
    assert UNRECOGNIZED_NAME in s_client(edge, *name)


@pytest.mark.parametrize("offered", ["h2,http/1.1", "http/1.1", "h2"])
def test_alpn(edge, offered):
    said = s_client(edge, "-servername", "shop.example.com", "-alpn", offered)
    assert f"ALPN protocol: {offered.split(',')[0]}" in said


def test_versions(edge):
    shop = ["-servername", "shop.example.com"]
    assert "Protocol  : TLSv1.2" in s_client(edge, *shop, "-tls1_2")
    assert "TLSv1.3" in s_client(edge, *shop, "-tls1_3")
    old = s_client(edge, *shop, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    assert "SSL alert number 40" in old or "SSL alert number 70" in old, old
    admin = s_client(edge, "-servername", "admin.example.com", "-tls1_2")
    assert "alert protocol version" in admin, admin


def test_sessions_are_resumed(edge, tmp_path):
    file = str(tmp_path / "session")
    shop = ["-servername", "shop.example.com", "-tls1_2"]
    s_client(edge, *shop, "-sess_out", file)
    assert "Reused, TLSv1.2" in s_client(edge, *shop, "-sess_in", file)


def test_a_plain_request_to_a_tls_port_is_refused(edge):
    got = edge.curl(f"http://127.0.0.1:{edge.ports['https']}/")
    assert got.returncode != 0
