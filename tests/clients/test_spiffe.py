"""The SPIFFE library of Python takes its certificates from our Workload API."""

import time

import pytest
from spiffe import SpiffeId, TrustDomain, WorkloadApiClient, X509Source

from edge import wait
from mesh import Mesh

CART = SpiffeId("spiffe://cluster.local/ns/shop/sa/cart")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    with Mesh(tmp_path_factory.mktemp("spiffe"), "4s") as mesh:
        mesh.socket = f"unix://{mesh.folder / 'workload.sock'}"
        yield mesh


def test_a_certificate_and_its_roots_are_had(mesh):
    with WorkloadApiClient(mesh.socket) as client:
        svid = client.fetch_x509_svid()
        assert svid.spiffe_id == CART and len(svid.cert_chain) == 2
        bundles = client.fetch_x509_bundles()
    roots = bundles.get_bundle_for_trust_domain(TrustDomain("cluster.local")).x509_authorities
    [root] = roots
    svid.cert_chain[1].verify_directly_issued_by(root)
    svid.leaf.verify_directly_issued_by(svid.cert_chain[1])


def test_a_source_is_renewed(mesh):
    with X509Source(socket_path=mesh.socket, timeout_in_seconds=20) as source:
        serials = set()

        def renewed():
            leaf = source.get_x509_context().default_svid.leaf
            serials.add(leaf.serial_number)
            assert leaf.not_valid_after_utc.timestamp() > time.time()
            return len(serials) >= 3

        wait("it was renewed twice", renewed)
