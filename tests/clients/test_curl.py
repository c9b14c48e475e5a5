"""curl: versions, modes, tokens, client certificates."""

import filecmp
import subprocess

import pytest

SHOP = "https://shop.example.com"


@pytest.mark.parametrize(("flag", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_a_page_over_each_version(edge, flag, version):
    got = edge.curl(flag, "-w", "%{http_version}", f"{SHOP}/")
    assert (got.returncode, got.stdout) == (0, f"catalogue\n{version}"), got


@pytest.mark.parametrize("flag", ["--http1.1", "--http2"])
def test_what_the_backend_learns(edge, flag):
    forged = ["-H", "x-forwarded-for: 9.9.9.9", "-H", "x-forwarded-proto: gopher"]
    got = edge.curl(flag, *forged, f"{SHOP}/headers").stdout
    address, proto, request = got.strip().split("|")
    assert address.endswith("127.0.0.1") and proto == "https" and len(request) == 36, got


def test_plain_http_is_sent_to_https(edge):
    got = edge.curl("-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://shop.example.com/a?b")
    assert got.stdout == f"301 {SHOP}/a?b"


@pytest.mark.parametrize("flag", ["--http1.1", "--http2"])
def test_an_upload_and_a_download_arrive_whole(edge, flag, tmp_path):
    file = tmp_path / "download"
    got = edge.curl(flag, "-o", file, "-w", "%{http_code}", f"{SHOP}/download")
    assert got.returncode == 0 and got.stdout == "200", got
    assert filecmp.cmp(file, edge.nginx.download, shallow=False)
    got = edge.curl(flag, "-T", file, "-w", " %{http_code} %{size_upload}", f"{SHOP}/upload")
    size = edge.nginx.download.stat().st_size
    assert got.stdout == f"{size} 200 {size}", got


def test_an_answer_before_the_upload_ends_reaches_the_client(edge):
    file = edge.nginx.download
    got = edge.curl("--http1.1", "-T", file, "-w", " %{http_code}", f"{SHOP}/cart")
    assert got.returncode == 0 and got.stdout.endswith(" 200"), got
    assert edge.curl(f"{SHOP}/cart").stdout.startswith("cart")
    # HTTP/2 can say "stop" (RFC 9113 section 8.1). curl 7.88 hangs or fails there whoever serves it.
    url = f"https://localhost:{edge.ports['any']}/size"
    got = subprocess.run(["nghttp", "-v", "-d", file, url], capture_output=True, text=True, timeout=20)
    answer, _, reset = got.stdout.partition("; END_STREAM\n")
    assert ":status: 200" in answer and f"\n{file.stat().st_size}" in answer, got.stdout
    assert "error_code=NO_ERROR" in reset, got.stdout


def test_the_mesh_hop_is_verified_by_both_sides(edge):
    got = edge.curl(f"{SHOP}/cart").stdout
    assert got.startswith("cart verify=SUCCESS sni=outbound_.80_._.cart.shop.internal"), got


def test_nginx_refuses_who_has_no_mesh_certificate(edge):
    got = edge.curl("--insecure", f"https://127.0.0.1:{edge.backends['9401']}/cart")
    assert "No required SSL certificate was sent" in got.stdout


def test_another_workload_of_the_mesh_is_refused(edge):
    """The cart's endpoint with a certificate of another service account."""
    text = (edge.folder / "config" / "cart.yaml").read_text()
    before = edge.own("admin", "/config_dump")
    edge.config("cart", text.replace("sa/cart", "sa/other"))
    from edge import wait

    wait("the change is live", lambda: edge.own("admin", "/config_dump") != before)
    got = edge.curl("-w", "%{http_code}", f"{SHOP}/cart")
    assert got.stdout.endswith("503"), got
    before = edge.own("admin", "/config_dump")
    edge.config("cart", text)
    wait("the change is live", lambda: edge.own("admin", "/config_dump") != before)
    assert edge.curl(f"{SHOP}/cart").stdout.startswith("cart verify=SUCCESS")


def test_tokens(edge):
    def ask(token):
        return edge.curl("-w", "%{http_code}", "-H", f"authorization: Bearer {token}", f"{SHOP}/cart")

    assert ask(edge.issuer.token(sub="bob")).stdout.endswith("user=bob\n200")
    assert edge.curl(f"{SHOP}/cart").stdout.endswith("user=\n")
    assert edge.curl("-H", "x-user: mallory", f"{SHOP}/cart").stdout.endswith("user=\n")
    assert ask("a.b.c").stdout.endswith("401")
    assert ask(edge.issuer.token(exp=1)).stdout == "Jwt is expired401"
    assert ask(edge.issuer.token(aud="else")).stdout == "Audiences in Jwt are not allowed403"
    assert ask(edge.issuer.token(iss="else")).stdout == "Jwt issuer is not configured401"


@pytest.mark.parametrize("flag", ["--http1.1", "--http2"])
def test_client_certificates(edge, flag):
    url = "https://admin.example.com/"
    refused = edge.curl(flag, url)
    assert refused.returncode in (55, 56) and refused.stdout == "", refused
    allowed = edge.curl(flag, *edge.client(), url).stdout
    assert allowed.startswith("admin xfcc=") and "Hash=" in allowed, allowed
    mesh = ["--cert", edge.cert("identity/cert-chain.pem"), "--key", edge.cert("identity/key.pem")]
    assert edge.curl(flag, *mesh, url).returncode != 0


def test_a_client_certificate_is_not_asked_for_elsewhere_and_forged_headers_go(edge):
    got = edge.curl("-w", "%{http_code}", "-H", "Host: admin.example.com", f"{SHOP}/")
    assert got.stdout.endswith("421"), got
    forged = "x-forwarded-client-cert: Hash=1;Subject=root"
    got = edge.curl(*edge.client(), "-H", forged, "https://admin.example.com/").stdout
    assert "Subject=root" not in got, got


def test_passthrough_shows_the_backends_certificate(edge):
    got = edge.curl("-w", "%{http_version}", "https://legacy.example.com/")
    assert got.stdout == "legacy\n2"
    assert edge.curl("https://other.example.com/").returncode == 35
