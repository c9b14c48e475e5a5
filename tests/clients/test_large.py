"""Bodies and WebSockets of 1 GiB: all of it arrives, and the gateway's memory stays bounded.

LARGE_MIB makes them smaller, for a debug build."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

import websocket

SIZE = int(os.environ.get("LARGE_MIB", "1024")) << 20
# Most that the gateway may grow by meanwhile; windows and buffers of both sides are below 5 MiB.
BOUND = 16 << 20
MESSAGE = 1 << 20
LARGE = "https://shop.example.com/large"
UPLOAD = "https://shop.example.com/upload"

versions = pytest.mark.parametrize("flag", ["--http1.1", "--http2"])


def memory(edge, name):
    status = Path(f"/proc/{edge.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(name))


@contextmanager
def bounded(edge):
    """What runs within makes the gateway's peak of memory grow by less than the bound."""
    Path(f"/proc/{edge.process.pid}/clear_refs").write_text("5")  # The peak counts from here.
    before = memory(edge, "VmRSS:")
    yield
    grown = memory(edge, "VmHWM:") - before
    assert grown < BOUND, f"{grown >> 20} MiB more than {before >> 20} MiB"


@pytest.fixture(scope="module")
def sparse(edge):
    file = edge.folder / "nginx/www/large"
    with file.open("wb") as large:
        large.truncate(SIZE)
    yield file
    file.unlink()


@versions
def test_a_download(edge, sparse, flag):
    with bounded(edge):
        got = edge.curl(flag, "-m", "60", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", LARGE)
    assert got.stdout == f"200 {SIZE}", got


@versions
def test_an_upload(edge, sparse, flag):
    with bounded(edge):
        got = edge.curl(flag, "-m", "60", "-T", sparse, "-w", " %{http_code} %{size_upload}", UPLOAD)
    assert got.stdout == f"{SIZE} 200 {SIZE}", got


def test_a_websocket(edge):
    message = os.urandom(MESSAGE)
    with websocket.server(edge), websocket.client(edge, compression=None) as socket, bounded(edge):
        for _ in range(SIZE // MESSAGE):
            socket.send(message)
            assert socket.recv(timeout=20) == message
