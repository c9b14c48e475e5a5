"""The CA's certificates and lists, judged by openssl; keys and requests made by openssl."""

import subprocess

import grpc
import pytest

from edge import wait
from mesh import TOKEN, Mesh

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    with Mesh(tmp_path_factory.mktemp("ca"), "1h") as mesh:
        yield mesh


def field(tag, data):
    """A protobuf field of bytes."""
    size, out = len(data), bytes([tag << 3 | 2])
    while size > 0x7F:
        out, size = out + bytes([size & 0x7F | 0x80]), size >> 7
    return out + bytes([size]) + data


def strings(message):
    """Strings of a message that has nothing else."""
    found = []
    while message:
        size, shift, at = 0, 0, 1
        while True:
            size |= (message[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if message[at - 1] < 0x80:
                break
        found.append(message[at : at + size].decode())
        message = message[at + size :]
    return found


def create(mesh, csr, token=TOKEN):
    roots = (mesh.folder / "ca" / "root-cert.pem").read_bytes()
    with grpc.secure_channel(f"localhost:{mesh.ports['ca']}", grpc.ssl_channel_credentials(roots)) as channel:
        call = channel.unary_unary(METHOD)
        return strings(call(field(1, csr), metadata=[("authorization", f"Bearer {token}")], timeout=20))


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, **options).stdout


KEYS = {
    "p256": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "rsa2048": ["-newkey", "rsa:2048"],
    "rsa4096": ["-newkey", "rsa:4096"],
    "rsa1024": ["-newkey", "rsa:1024"],
    "p521": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "ed25519": ["-newkey", "ed25519"],
}


def request(folder, kind, *more):
    command = ["req", *KEYS[kind], "-nodes", "-keyout", "key.pem", "-subj", "/O=ignored", *more]
    return openssl(*command, cwd=folder).encode()


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "rsa4096"])
def test_openssl_accepts_what_is_issued(mesh, tmp_path, kind):
    name = "subjectAltName=URI:spiffe://cluster.local/ns/istio-system/sa/gateway"
    leaf, intermediate, roots = create(mesh, request(tmp_path, kind, "-addext", name))
    for file, text in [("leaf", leaf), ("intermediate", intermediate), ("roots", roots)]:
        (tmp_path / f"{file}.pem").write_text(text)
    for purpose in ["sslserver", "sslclient"]:
        command = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots.pem"]
        assert "OK" in openssl(*command, "-untrusted", "intermediate.pem", "leaf.pem", cwd=tmp_path)
    shown = openssl("x509", "-in", "leaf.pem", "-noout", "-text", cwd=tmp_path)
    assert "URI:spiffe://cluster.local/ns/istio-system/sa/gateway" in shown
    assert "CA:FALSE" in shown and "ignored" not in shown
    public = openssl("pkey", "-in", "key.pem", "-pubout", cwd=tmp_path)
    assert openssl("x509", "-in", "leaf.pem", "-noout", "-pubkey", cwd=tmp_path) == public


@pytest.mark.parametrize("kind", ["rsa1024", "p521", "ed25519"])
def test_other_keys_are_refused(mesh, tmp_path, kind):
    with pytest.raises(grpc.RpcError) as refused:
        create(mesh, request(tmp_path, kind))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "extension",
    ["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign", "subjectAltName=DNS:shop.example.com"],
)
def test_other_wishes_are_refused(mesh, tmp_path, extension):
    with pytest.raises(grpc.RpcError) as refused:
        create(mesh, request(tmp_path, "p256", "-addext", extension))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_sha1_and_strangers_are_refused(mesh, tmp_path):
    with pytest.raises(grpc.RpcError) as refused:
        create(mesh, request(tmp_path, "rsa2048", "-sha1"))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as refused:
        create(mesh, request(tmp_path, "p256"), token="another-token")
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_openssl_knows_what_is_revoked(mesh, tmp_path):
    leaf, intermediate, roots = create(mesh, request(tmp_path, "p256"))
    serial = mesh.issued()[-1]["serial"]
    (tmp_path / "leaf.pem").write_text(leaf)
    (tmp_path / "all.pem").write_text(intermediate + roots)
    crl = mesh.folder / "ca" / "ca-crl.pem"
    command = ["verify", "-crl_check", "-CAfile", "all.pem", "-CRLfile", str(crl), "leaf.pem"]
    assert "OK" in openssl(*command, cwd=tmp_path)
    (mesh.folder / "ca" / "revoked.txt").write_text(f"{serial} 2026-01-01T00:00:00Z\n")
    listed = ["crl", "-in", str(crl), "-noout", "-text"]
    wait("the list has it", lambda: serial.upper() in openssl(*listed))
    refused = subprocess.run(["openssl", *command], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode != 0 and "revoked" in refused.stdout + refused.stderr


# The second is what Istio's tools/certs/common.mk writes for an intermediate.
@pytest.mark.parametrize(
    "usage",
    ["critical,keyCertSign,cRLSign", "critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign"],
)
def test_a_ca_made_by_openssl_is_plugged_in(tmp_path, usage):
    ca = tmp_path / "ca"
    ca.mkdir(mode=0o700)
    root = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root-cert.pem"]
    openssl(*root, "-subj", "/CN=root", "-days", "9", "-addext", "keyUsage=critical,keyCertSign,cRLSign", cwd=ca)
    # PKCS#1, as older tools write it.
    openssl("genrsa", "-traditional", "-out", "ca-key.pem", "2048", cwd=ca)
    openssl("req", "-new", "-key", "ca-key.pem", "-subj", "/CN=signing", "-out", "ca.csr", cwd=ca)
    (ca / "ext").write_text(f"basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage={usage}\n")
    sign = ["x509", "-req", "-in", "ca.csr", "-CA", "root-cert.pem", "-CAkey", "root.key", "-CAcreateserial"]
    openssl(*sign, "-days", "9", "-extfile", "ext", "-out", "ca-cert.pem", cwd=ca)
    (ca / "cert-chain.pem").write_text((ca / "ca-cert.pem").read_text() + (ca / "root-cert.pem").read_text())
    (ca / "ca-key.pem").chmod(0o600)
    folder = tmp_path / "work"
    folder.mkdir()
    with Mesh(folder, "1h", plugged=ca) as mesh:
        leaf, intermediate, roots = create(mesh, request(tmp_path, "p256"))
        for file, text in [("leaf", leaf), ("intermediate", intermediate), ("roots", roots)]:
            (tmp_path / f"{file}.pem").write_text(text)
        command = ["verify", "-CAfile", "roots.pem", "-untrusted", "intermediate.pem", "leaf.pem"]
        assert "OK" in openssl(*command, cwd=tmp_path)
        assert roots == (ca / "root-cert.pem").read_text()
        listed = "X509 CRL" in (folder / "ca" / "ca-crl.pem").read_text()
        assert listed == ("cRLSign" in usage)
