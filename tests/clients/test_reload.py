"""200 reloads under load: nothing fails, nothing breaks."""

import filecmp
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading

import edge as edge_module
import websocket

RELOADS = 200


class Traffic:
    """wrk, a slow download, a WebSocket that never pauses, and new handshakes all the time."""

    def __init__(self, edge, file):
        self.edge = edge
        self.file = file
        self.over = threading.Event()
        self.messages = 0
        self.handshakes = 0
        self.failures = []
        port = edge.ports["https"]
        self.url = f"https://localhost:{edge.ports['any']}/"
        wrk = ["wrk", "-t", "1", "-c", "32", "-d", "300s", self.url]
        self.wrk = subprocess.Popen(wrk, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        slow = ["curl", "--silent", "--show-error", "--cacert", edge.ca, "--limit-rate", "4M"]
        slow += ["--connect-to", f":443:127.0.0.1:{port}", "-o", str(file), "-w", "%{http_code}"]
        self.download = subprocess.Popen(
            [*slow, "https://shop.example.com/download"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.threads = [threading.Thread(target=self._talk), threading.Thread(target=self._shake)]
        for thread in self.threads:
            thread.start()

    def _talk(self):
        try:
            with websocket.client(self.edge) as socket:
                while not self.over.is_set():
                    socket.send(str(self.messages))
                    assert socket.recv(timeout=20) == str(self.messages)
                    self.messages += 1
                    self.over.wait(0.002)
        except Exception as error:
            self.failures.append(repr(error))

    def _shake(self):
        while not self.over.is_set():
            got = self.edge.curl("-o", "/dev/null", "-w", "%{http_code}", "https://shop.example.com/")
            if got.stdout != "200":
                self.failures.append(f"{got.stdout} {got.stderr}")
            self.handshakes += 1

    def end(self):
        got, said = self.download.communicate(timeout=120)
        slow = (self.download.returncode, got, said)
        self.over.set()
        for thread in self.threads:
            thread.join()
        self.wrk.send_signal(signal.SIGINT)
        said, _ = self.wrk.communicate(timeout=30)
        return slow, said


def certificates(edge, count):
    """Further certificates for the same names under the same authority."""
    made = []
    for number in range(count):
        folder = edge.folder / f"more-{number}"
        shutil.copytree(edge.folder / "certs" / "edge-ca", folder / "certs" / "edge-ca")
        subprocess.run([edge_module.BINARY, "certs"], cwd=folder, check=True, capture_output=True)
        secret = folder / "certs" / "shop-tls"
        made.append([(secret / name).read_text() for name in ["tls.crt", "tls.key"]])
    return made


def change(edge, number, made):
    """One change of four kinds in turn: a route, a certificate, a broken file, the file mended."""
    kind, turn = number % 4, number // 4
    if kind == 0:
        text = edge.extras()
        last = "    - route: [{destination: {host: catalogue.shop.internal, port: {number: 80}}}]\n"
        assert last in text
        headers = f"      headers: {{response: {{set: {{x-turn: '{turn}'}}}}}}\n"
        edge.config("extras", text.replace(last, last + headers))
    elif kind == 1:
        chain, key = made[turn % len(made)]
        edge.write("certs/shop-tls/tls.key", key)
        edge.write("certs/shop-tls/tls.crt", chain)
    elif kind == 2:
        edge.config("broken", f"apiVersion: networking.istio.io/v1\nkind: [ # {turn}\n")
    else:
        (edge.folder / "config" / "broken.yaml").unlink()


def served(edge):
    """The certificate that a new handshake gets, DER."""
    context = ssl.create_default_context(cafile=edge.ca)
    with socket.create_connection(("127.0.0.1", edge.ports["https"])) as raw:
        with context.wrap_socket(raw, server_hostname="shop.example.com") as stream:
            return stream.getpeercert(binary_form=True)


def is_live(edge, number, made, before):
    """Whether a change is. Key and certificate are two files, which may be taken up one after the other."""
    kind, turn = number % 4, number // 4
    if kind == 1:
        leaf = made[turn % len(made)][0].partition("-----END CERTIFICATE-----")
        return served(edge) == ssl.PEM_cert_to_DER_cert("".join(leaf[:2]) + "\n")
    return generation(edge) > before


def generation(edge):
    return json.loads(edge.own("admin", "/config_dump"))["generation"]


def test_200_reloads_under_load(edge, tmp_path):
    made = certificates(edge, 3)
    file = tmp_path / "download"
    with websocket.server(edge):
        traffic = Traffic(edge, file)
        try:
            for number in range(RELOADS):
                before = generation(edge)
                change(edge, number, made)
                live = lambda: is_live(edge, number, made, before)
                edge_module.wait(f"change {number} is live", live)
            turn = edge.curl("-D", "-", "-o", "/dev/null", traffic.url).stdout
        finally:
            slow, said = traffic.end()
    assert not traffic.failures, traffic.failures[:5]
    assert f"x-turn: {(RELOADS - 1) // 4}" in turn.lower(), turn
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    requests = int(re.search(r"(\d+) requests in", said)[1])
    assert requests > 1000 and traffic.messages > 100 and traffic.handshakes > 10
    assert slow == (0, "200", "")
    assert filecmp.cmp(file, edge.nginx.download, shallow=False)
    print(f"\n{RELOADS} reloads: {requests} requests, {traffic.messages} messages,", end=" ")
    print(f"{traffic.handshakes} handshakes, 100 MiB: 0 failed")
