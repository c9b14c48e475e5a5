"""Fixtures: one edge for the whole run."""

import pytest

from edge import Edge


@pytest.fixture(scope="session")
def edge(tmp_path_factory):
    with Edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge
