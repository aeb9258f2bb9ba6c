"""A cluster inside the test process: what the session's exports share, its worker shares too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with one worker, a thread of this process."""
    distributed = pytest.importorskip("distributed", reason="needs dask: the extra sweep")
    from fpet_export.sweep.cluster import ANY_PORT

    with distributed.LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=ANY_PORT
    ) as cluster:
        yield cluster.scheduler_address
