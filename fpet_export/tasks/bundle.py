"""Everything that a board needs in one archive: `BundleRequest`, `bundle`, `Bundled`."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from engines import storage
from engines.commands import command
from engines.errors import UsageError
from engines.transport import signature
from engines.transport.bundle import SUFFIX, Bundle
from fpet_export.board import packing as board_packing
from fpet_export.reporter import SILENT, Reporter
from fpet_export.tasks import by_task, packing


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleRequest(packing.PackRequest):
    """What is packed, and where the archive goes.

    Attributes:
        out: The archive; None is X.bundle.tar beside the artefact.
        with_plain: Pack the same architecture without merging too, to be measured against.
        key: SSH key to sign the archive with; None signs nothing.
    """

    out: Path | None = None
    with_plain: bool = False
    key: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundled:
    """An archive.

    Attributes:
        path: Where it lies.
        content: Its list.
        signature: The file with its signature; None where it was not signed.
        next: Commands to type next.
    """

    path: Path
    content: Bundle
    signature: Path | None = None
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "bundle": str(self.path),
            "signature": None if self.signature is None else str(self.signature),
            "target": self.content.target,
            "files": {entry.name: entry.size_bytes for entry in self.content.entries},
        }


def bundle(request: BundleRequest, reporter: Reporter = SILENT) -> Bundled:
    """Check an artefact or a folder of tasks, collect, write, and sign where asked to.

    Raises:
        UsageError: The target does not take it, or the archive's name is none of a bundle.
        InputError: There is no such file, or images are refused.
        ParityError: Its check failed.
        TrustError: It is not what its manifest or its index says.
    """
    artefact = request.artefact
    out = request.out or _beside(artefact)
    _require_name(out)
    for path in (out, *((signature.signature_path(out),) if request.key else ())):
        storage.refuse_overwrite(path, force=request.force)
    if request.key is not None:
        signature.require_key(request.key)
    if artefact.is_dir():
        if request.with_plain:
            raise UsageError(
                "the plain model belongs to one artefact, this is a folder of tasks",
                where="--with-plain",
                fix="leave it out, or export one of the runs, and bundle that graph",
            )
        written = packing.pack(request, out, reporter)
    else:
        written = _pack(request, out, reporter)
    signed = None
    if request.key is not None:
        signed = signature.sign(out, request.key, force=request.force)
        reporter.step("sign", signed.name)
    return Bundled(path=out, content=written, signature=signed, next=(command("verify", out),))


def _pack(request: BundleRequest, out: Path, reporter: Reporter) -> Bundle:
    """Pack one graph or engine."""
    item = board_packing.checked(request.artefact, request.target, request, reporter)
    preprocessing, images = item.manifest.preprocessing, None
    if preprocessing is not None:
        name = item.path.name  # stands for "all" where there are no tasks
        wanted = {name: preprocessing}
        model = item.manifest.model
        known = by_task.known_by_task(
            request, {name: None if model is None else model.classes}, {name: item.manifest}
        )
        images = by_task.images_by_task(
            request, wanted, known, reporter, default=board_packing.DEFAULT_IMAGES
        )[name]
    with contextlib.ExitStack() as stack:
        plain = None
        if request.with_plain:
            plain = stack.enter_context(board_packing.plain_of(item, reporter))
        packed = board_packing.pack(
            [item], out, reporter, images=images, plain=plain, force=request.force
        )
    return packed.bundle


def _require_name(out: Path) -> None:
    """Refuse a name by which `verify` and `doctor` would not know a bundle."""
    if not out.name.endswith(SUFFIX):
        raise UsageError(
            f"{out.name} is not the name of a bundle: it does not end in {SUFFIX}",
            where="--out",
            fix=shlex.join(("-o", str(out.with_name(out.name.partition(".")[0] + SUFFIX)))),
        )


def _beside(artefact: Path) -> Path:
    """Return where a bundle lies unless the user says otherwise."""
    if artefact.is_dir():
        whole = artefact.resolve()  # "." has no name
        return whole.with_name(whole.name + SUFFIX)
    return artefact.with_name(artefact.stem + SUFFIX)
