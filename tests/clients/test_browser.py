"""Headless Chromium: a page with a style sheet and a fetch, over HTTP/2."""

import base64
import hashlib
import subprocess


def pin(edge):
    """Chromium's form of a public key's hash."""
    key = ["openssl", "x509", "-in", edge.cert("shop-tls/tls.crt"), "-noout", "-pubkey"]
    pem = subprocess.run(key, capture_output=True, check=True).stdout
    der = ["openssl", "pkey", "-pubin", "-outform", "der"]
    der = subprocess.run(der, input=pem, capture_output=True, check=True).stdout
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def test_chromium_loads_a_page_over_http2(edge, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"]
    command += [f"--ignore-certificate-errors-spki-list={pin(edge)}", "--virtual-time-budget=10000"]
    url = f"https://shop.localhost:{edge.ports['https']}/page.html"
    got = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    wanted = "protocol=h2 color=rgb(1, 2, 3) robots=User-agent: *"
    assert wanted in got.stdout, got.stdout + got.stderr[-3000:]
