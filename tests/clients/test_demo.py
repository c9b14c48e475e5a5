"""`portcullis demo`: a gateway, a STRICT sidecar and its application, as the printed commands show."""

import shutil
import subprocess

import pytest

from edge import BINARY, ROOT, free_port, wait
from mesh import Process

CART = "127.0.0.1:9401"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(ROOT / "gateways", folder / "gateways")
    command = [BINARY, "demo", f"--port-map=80={free_port()}", f"--port-map=443={free_port()}"]
    command += ["--state", "off", *(f"--{flag}=off" for flag in ["status", "metrics", "admin"])]
    process = Process(folder, "demo", command)
    process.folder = folder
    try:
        wait("it tells its story", lambda: process.says("Ctrl-C ends it."))
        yield process
    finally:
        process.stop()
    assert process.process.returncode == 0, process.log.read_text()
    # The sidecar ends with it.
    assert subprocess.run(["curl", "-s", f"http://{CART}/"]).returncode == 7


def told(demo, start):
    """The printed commands that begin so, run as they are; status of the last and what they say."""
    lines = [line.strip() for line in demo.log.read_text().splitlines()]
    alias = next(line for line in lines if line.startswith("alias shop="))
    command = next(line for line in lines if line.startswith(start))
    script = f"shopt -s expand_aliases\n{alias}\n{command}\n"
    done = subprocess.run(["bash", "-c", script], cwd=demo.folder, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_gateway_reaches_the_cart_through_its_sidecar(demo):
    status, text = told(demo, "shop https://shop.example.com/cart")
    assert status == 0 and text.startswith("cart got GET /cart"), text
    assert "from the workload spiffe://cluster.local/ns/istio-system/sa/" in text


def test_the_sidecar_refuses_callers_without_a_certificate(demo):
    for command in [f"curl -i http://{CART}", f"curl -i --insecure https://{CART}"]:
        status, text = told(demo, command)
        assert status != 0 and text == "", (command, text)


def test_a_certificate_of_the_mesh_is_let_in(demo):
    status, text = told(demo, "curl -i --http1.1")
    assert status == 0 and "cart got GET /cart" in text, text
