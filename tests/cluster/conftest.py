"""One cluster for all the tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing, running

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = ", ".join(missing())
    for item in items:
        if HERE not in item.path.parents:
            continue
        # Each wait has its own, shorter limit; a test has several, and the first one starts the cluster.
        item.add_marker(pytest.mark.timeout(1200))
        item.add_marker(pytest.mark.slow)
        if absent:
            how = "`make test-slurm` installs it where there are root and apt"
            item.add_marker(pytest.mark.skip(reason=f"SLURM is not here (no {absent}); {how}"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def on_the_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test calls finds the cluster; the next test finds it empty and whole."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    yield
    cluster.clear()
