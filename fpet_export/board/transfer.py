"""`--remote HOST`: what `build`, `bench` and `deploy` do on a board, from here.

The artefact travels as a bundle, the agent in it does the work, and the results come back. The
folder there is named by the bundle's hash, so the same command finds what an interrupted one left.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from engines import storage
from engines.errors import RemoteError
from engines.transport.bundle import SUFFIX
from fpet_export.board import packing
from fpet_export.board.session import RemoteSession
from fpet_export.board.ssh import CACHE, ConnectionLostError, Remote
from fpet_export.reporter import Reporter
from fpet_export.requests import AllowFailed, Elsewhere
from fpet_export.steps import usable

if TYPE_CHECKING:
    from engines.imaging.images import ImageSet
    from fpet_export.board.packing import Item, Packed

T = TypeVar("T")


def require_reachable(request: Elsewhere) -> None:
    """Refuse a machine that cannot be reached or has no Python, before anything is made for it.

    Raises:
        RemoteError: It cannot be reached.
        MissingDependencyError: It has no Python 3.
    """
    from fpet_export.board.ssh import CACHE, Remote  # not in the agent

    assert request.remote is not None
    Remote(request.remote, CACHE, config=request.ssh_config).require("python3")


@contextlib.contextmanager
def unpacked_there(
    items: Sequence[Item], request: Elsewhere, reporter: Reporter, *,
    images: ImageSet | None = None, plain: Path | None = None,
) -> Iterator[RemoteSession]:  # fmt: skip
    """Send artefacts with the agent; the folder there is removed, unless the line breaks.

    Args:
        items: What is sent, the first is what the bundle is for.
        request: Which machine.
        reporter: Hears of each step.
        images: What the engines are checked on; None for a few synthetic ones.
        plain: Graph of the plain model that they are measured against.

    Raises:
        RemoteError: The machine cannot be reached, or lacks room or a Python.
    """

    def pack(bundle: Path) -> Packed:
        return packing.pack(items, bundle, reporter, images=images, plain=plain)

    with sent(items[0].path.stem, pack, request, reporter) as (remote, packed):
        yield RemoteSession(
            remote=remote,
            items=tuple(items),
            packed=packed,
            reporter=reporter,
            allowed=tuple(usable.failed_argv(request)) if isinstance(request, AllowFailed) else (),
        )


@contextlib.contextmanager
def sent(
    stem: str, pack: Callable[[Path], T], request: Elsewhere, reporter: Reporter
) -> Iterator[tuple[Remote, T]]:
    """Write a bundle, and unpack it there; the folder is removed, unless the line breaks.

    Args:
        stem: The bundle's name.
        pack: Writes it, and says what is in it.
        request: Which machine.
        reporter: Hears of each step.

    Raises:
        RemoteError: The machine cannot be reached, or lacks room or a Python.
    """
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        bundle = Path(folder) / f"{stem}{SUFFIX}"
        packed = pack(bundle)
        name = request.remote_dir or f"{CACHE}/{storage.sha256_of(bundle)[:16]}"
        assert request.remote is not None
        remote = Remote(request.remote, name, config=request.ssh_config)
        try:
            with reporter.progress(f"to {request.remote}", bundle.stat().st_size) as advance:
                remote.upload(bundle, "bundle.tar", progress=advance)
            remote.shell("tar xf bundle.tar")
            reporter.step("remote", f"{request.remote}:{name}")
            yield remote, packed
        except ConnectionLostError:
            raise
        except BaseException:
            with contextlib.suppress(RemoteError):
                _clear(remote, request)
            raise
    _clear(remote, request)


def _clear(remote: Remote, request: Elsewhere) -> None:
    if not request.keep_remote:
        remote.remove()
