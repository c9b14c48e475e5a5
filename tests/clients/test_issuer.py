"""An OpenID provider with every fault, and tokens of every algorithm."""

import base64
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from edge import BINARY, free_port, wait

CONFIG = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [istio-system/edge]
  http: [{directResponse: {status: 200, body: {string: hello}}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec:
  jwtRules:
    - {issuer: "FAULTY", timeout: 1s}
    - {issuer: "HEALTHY", jwksUri: "HEALTHY/keys"}
"""

RSA_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


class Key:
    """A key of one algorithm."""

    def __init__(self, algorithm, kid):
        self.algorithm, self.kid = algorithm, kid
        if algorithm in RSA_ALGORITHMS:
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            form = RSAAlgorithm
        elif algorithm in CURVES:
            self.private, form = ec.generate_private_key(CURVES[algorithm]()), ECAlgorithm
        else:
            self.private, form = ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm
        self.jwk = {**json.loads(form.to_jwk(self.private.public_key())), "kid": kid, "use": "sig"}

    def token(self, issuer, **claims):
        now = int(time.time())
        claims = {"iss": issuer, "sub": "alice", "iat": now, "exp": now + 600, **claims}
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers={"kid": self.kid})


class Provider:
    """A provider: discovery document and keys, unless it has a fault."""

    def __init__(self, *keys):
        self.keys, self.fault, self.fetches = list(keys), None, 0
        self.port = free_port()
        self.server = None
        self.ended = threading.Event()

    @property
    def issuer(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.ended.set()
        if self.server:
            self.server.shutdown()
            self.server.server_close()

    def answer(self, request):
        self.fetches += 1
        status, headers, body = 200, {}, ""
        if request.path == "/keys":
            body = json.dumps({"keys": [key.jwk for key in self.keys]})
        elif request.path == "/.well-known/openid-configuration":
            body = json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"})
        else:
            status = 404
        if self.fault == "slow":
            self.ended.wait(30)
        elif self.fault == "500":
            status = 500
        elif self.fault == "html":
            body = "<html>sign in</html>"
        elif self.fault == "empty" and request.path == "/keys":
            body = '{"keys": []}'
        elif self.fault == "metadata":
            status, headers = 302, {"location": "http://169.254.169.254/latest/meta-data/"}
        elif self.fault == "foreign":
            body = body.replace(f'"issuer": "{self.issuer}"', '"issuer": "https://other.example"')
        elif self.fault == "huge":
            body = " " * (2 << 20)
        try:
            request.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body.encode())
        except OSError:
            pass


class Gate:
    """A gateway that trusts two providers."""

    def __init__(self, folder, faulty, healthy):
        self.folder, self.faulty, self.healthy = folder, faulty, healthy
        self.ports = {name: free_port() for name in ["http", "status", "metrics", "admin"]}
        (folder / "config").mkdir()
        text = CONFIG.replace("FAULTY", faulty.issuer).replace("HEALTHY", healthy.issuer)
        (folder / "config" / "all.yaml").write_text(text)

    def __enter__(self):
        command = [BINARY, "run", "--config", "config", "--bind", "127.0.0.1", "--workers", "1"]
        command += ["--state", "off", f"--port-map=80={self.ports['http']}"]
        for flag in ["status", "metrics", "admin"]:
            command += [f"--{flag}", f"127.0.0.1:{self.ports[flag]}"]
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=self.log)
        wait("the gateway is ready", lambda: self.get("status", "/healthz/ready")[0] == 200)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0
        self.log.close()
        assert "panicked" not in (self.folder / "log").read_text()

    def get(self, port, path, headers={}):
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None, ""

    def ask(self, token=None):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self.get("http", "/", headers)

    def key_set(self, provider):
        sets = json.loads(self.get("admin", "/jwks")[1])
        return next(one for one in sets if one["issuer"] == provider.issuer)


@pytest.fixture
def healthy():
    provider = Provider(Key("RS256", "one")).start()
    yield provider
    provider.stop()


FAULTS = [
    ("down", "connect", "Jwt verification fails"),
    ("slow", "timeout", "Jwt verification fails"),
    ("500", "status", "Jwt verification fails"),
    ("html", "discovery", "Jwt verification fails"),
    ("empty", "key_set", "Jwks doesn't have any valid public key"),
    ("metadata", "address_refused", "Jwt verification fails"),
    ("foreign", "discovery", "Jwt verification fails"),
    ("huge", "too_large", "Jwt verification fails"),
]


@pytest.mark.parametrize(("fault", "error", "text"), FAULTS)
def test_a_faulty_provider_harms_its_own_tokens_and_until_it_is_well(
    fault, error, text, healthy, tmp_path
):
    faulty = Provider(Key("RS256", "one"))
    faulty.fault = fault
    if fault != "down":
        faulty.start()
    with Gate(tmp_path, faulty, healthy) as gate:
        bad = faulty.keys[0].token(faulty.issuer)
        good = healthy.keys[0].token(healthy.issuer)
        wait("the healthy keys are there", lambda: gate.key_set(healthy)["state"] == "ready")
        wait("the fault is seen", lambda: gate.key_set(faulty)["last_error_class"] == error)
        assert gate.ask() == (200, "hello")
        assert gate.ask(good) == (200, "hello")
        assert gate.ask(bad) == (401, text)
        if fault == "down":
            faulty.start()
        faulty.fault = None
        faulty.ended.set()
        wait("it is well", lambda: gate.ask(bad) == (200, "hello"))
        assert gate.key_set(faulty)["last_error_class"] is None
    faulty.stop()


def test_a_rotated_key_is_found_and_old_ones_outlive_faults(healthy, tmp_path):
    faulty = Provider(Key("ES256", "old")).start()
    with Gate(tmp_path, faulty, healthy) as gate:
        old = faulty.keys[0].token(faulty.issuer)
        wait("the keys are there", lambda: gate.ask(old)[0] == 200)
        faulty.fault = "500"
        rotated = Key("ES256", "new")
        new = rotated.token(faulty.issuer)
        unknown = (401, "Jwks doesn't have key to match kid or alg from Jwt")
        assert gate.ask(new) == unknown
        wait("the fault is seen", lambda: gate.key_set(faulty)["last_error_class"] == "status")
        assert gate.ask(old)[0] == 200
        fetches = faulty.fetches
        for number in range(50):
            assert gate.ask(Key("EdDSA", f"random {number}").token(faulty.issuer)) == unknown
        assert faulty.fetches - fetches <= 2, "made-up key ids make it fetch"
        faulty.fault, faulty.keys = None, [rotated]
        wait("the new key is found", lambda: gate.ask(new)[0] == 200)
        assert gate.ask(old)[0] == 401, "a key that is gone verifies nothing, cached or not"
    faulty.stop()


def test_every_algorithm_is_verified_and_none_is_confused(healthy, tmp_path):
    algorithms = [*RSA_ALGORITHMS, *CURVES, "EdDSA"]
    keys = [Key(algorithm, algorithm) for algorithm in algorithms]
    provider = Provider(*keys).start()
    with Gate(tmp_path, provider, healthy) as gate:
        wait("the keys are there", lambda: gate.key_set(provider)["keys"] == len(keys))
        for key in keys:
            assert gate.ask(key.token(provider.issuer)) == (200, "hello"), key.algorithm
            stranger = Key(key.algorithm, key.kid).token(provider.issuer)
            assert gate.ask(stranger) == (401, "Jwt verification fails"), key.algorithm
            other = healthy.keys[0].token(provider.issuer)
            assert gate.ask(other)[0] == 401
        claims, public = {"iss": provider.issuer}, base64.urlsafe_b64decode(keys[0].jwk["n"] + "==")
        confused = jwt.encode(claims, public, "HS256", headers={"kid": "RS256"})
        assert gate.ask(confused) == (401, "Jwt verification fails")
        unsigned = jwt.encode({"iss": provider.issuer}, None, "none")
        assert gate.ask(unsigned)[0] == 401
    provider.stop()
