"""The workers of a sweep: dask's processes on this machine, or those of a scheduler by address."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dask
from distributed import Client, LocalCluster
from distributed.comm import get_address_host
from distributed.utils import silence_logging_cmgr

from engines.errors import RemoteError
from engines.machine.processor import usable_cores
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.work import Greeting, greet
from fpet_export.version import __version__

MOST_WORKERS = 4
"""On this machine, unless more are asked for: each holds PyTorch and a network."""
DEATHS = 10
"""Of workers, that one step may cause before it is given up."""
_HERE = "localhost"
ANY_PORT = f"{_HERE}:0"
"""Where the scheduler tells how it is: dask's usual port is another cluster's, perhaps."""
_CONNECT_S, _LOST_S, _LOOK_S = 20, 30, 2


@contextlib.contextmanager
def connected(request: SweepRequest) -> Iterator[Client]:
    """Yield a client of the cluster that is asked for; a local one ends with it.

    Raises:
        RemoteError: No scheduler answers at the address.
    """
    with silence_logging_cmgr(logging.CRITICAL):  # what matters is said, as an error of ours
        if request.scheduler is None:
            connection = _local(request.workers or min(usable_cores(), MOST_WORKERS))
        else:
            connection = _elsewhere(request.scheduler)
        with connection as client:
            yield client


def _elsewhere(address: str) -> Client:
    """Return a client of a scheduler that runs already.

    Raises:
        RemoteError: None answers.
    """
    try:
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise RemoteError(
            f"no scheduler of dask answers there: {error}",
            where=f"--scheduler {address}",
            fix="start one with `dask scheduler`, and workers with `dask worker ADDRESS "
            "--nthreads 1`; or leave --scheduler out",
        ) from error


@contextlib.contextmanager
def _local(workers: int) -> Iterator[Client]:
    """Yield a client of processes on this machine."""
    settings = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.deploy.lost-worker-timeout": _LOST_S,
    }
    with (
        tempfile.TemporaryDirectory(prefix="fpet-sweep-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # a share of the memory would end a worker that needs more for a moment
            dashboard_address=ANY_PORT,
            scheduler_kwargs={"dashboard": False},
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            preload=["fpet_export.sweep.worker_signals"],
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        _replacing(cluster, workers),
    ):
        yield client


@contextlib.contextmanager
def _replacing(cluster: LocalCluster, workers: int) -> Iterator[None]:
    """Replace workers that are lost for good.

    A worker that dies is started again by its nanny. One that dies while it starts, or that takes
    long to start again, is given up, and dask replaces it only where it is asked to.
    """
    ended = threading.Event()

    def replace() -> None:
        while not ended.wait(_LOOK_S):
            cluster.scale(workers)

    thread = threading.Thread(target=replace, name="replace workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def placed(
    client: Client, request: SweepRequest, token: Path, targets: Sequence[str]
) -> Mapping[str, str]:
    """Return for each target the machine where its engines are built and measured.

    One machine for all engines of a target: latencies of two are not to be compared.

    Args:
        client: Of a scheduler somewhere.
        request: Whose address it has.
        token: A file in the folder of the sweep.
        targets: All of the grid.

    Raises:
        RemoteError: There are no workers, or they are not what they must be; all are named.
    """
    where = f"--scheduler {request.scheduler}"
    try:
        found: dict[str, Greeting] = client.run(greet, token, targets)
    except Exception as error:
        raise RemoteError(
            f"a worker cannot begin: {error}",
            where=where,
            fix="install fpet-export with the same extras in the environment of every worker",
        ) from error
    if not found:
        raise RemoteError(
            "the scheduler has no workers",
            where=where,
            fix="start some: `dask worker ADDRESS --nthreads 1`",
        )
    wrong = [
        f"{address} has version {one.version}, this is {__version__}"
        for address, one in found.items()
        if one.version != __version__
    ]
    wrong += [
        f"{address} does not see {token.parent}" for address, one in found.items() if not one.sees
    ]
    homes = {}
    for target in targets:
        hosts = sorted(
            get_address_host(address) for address, one in found.items() if target in one.targets
        )
        if hosts:
            homes[target] = hosts[0]
        else:
            wrong.append(f"engines of {target} run on none of the {len(found)} workers")
    if wrong:
        raise RemoteError(
            "; ".join(wrong),
            where=where,
            fix="workers need this version, the extras of their targets, and the folder of the "
            "sweep under the same path, as on a network drive",
        )
    return homes
