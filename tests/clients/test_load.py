"""h2load and wrk: every request is answered."""

import re
import subprocess

import pytest


@pytest.mark.parametrize("path", ["/", "/cart"])
def test_h2load(edge, path):
    command = ["h2load", "-n", "2000", "-c", "16", "-m", "16"]
    command += [f"--connect-to=127.0.0.1:{edge.ports['https']}"]
    got = subprocess.run(
        [*command, f"https://shop.example.com{path}"], capture_output=True, text=True, timeout=60
    )
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in got.stdout, got.stdout


def test_wrk(edge):
    url = f"https://localhost:{edge.ports['any']}/"
    command = ["wrk", "-t", "2", "-c", "64", "-d", "2s", url]
    got = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    assert "Non-2xx" not in got and "Socket errors" not in got, got
    assert int(re.search(r"(\d+) requests in", got)[1]) > 100, got
