"""What to type next with an artefact on this machine; every line runs as it is pasted."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from engines.commands import command
from engines.cuda.device import open_cuda
from engines.engine import default_path
from engines.errors import FpetError
from engines.targets._lookup import known_target
from engines.transport.bundle import SUFFIX

if TYPE_CHECKING:
    from engines.manifest import Manifest
    from engines.targets import Target

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def first_image(source: Path | str | None) -> Path | None:
    """Return an image of the user's data: the first in their folder, or the file that it is."""
    if source is None:
        return None
    source = Path(source)
    if source.is_file():
        return source if source.suffix.lower() in _IMAGES else None
    if not source.is_dir():
        return None
    found = (path for path in sorted(source.rglob("*")) if path.suffix.lower() in _IMAGES)
    return next((path for path in found if path.is_file()), None)


def free(path: Path) -> Path:
    """Return a path like this one where nothing lies yet."""
    number, free_path = 2, path
    while free_path.exists():
        free_path = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free_path


def builds_here(target: Target) -> bool:
    """Say whether this machine has what building an engine for a target needs."""
    if util.find_spec(target.module) is None:
        return False
    on_gpu = target.module == "tensorrt" or target.name == "torch-cuda"
    return not on_gpu or _has_the_gpu(target)


def runs_here(manifest: Manifest) -> bool:
    """Say whether this machine has the runtime and the device that an artefact needs."""
    if manifest.kind == "graph":
        return util.find_spec("onnxruntime") is not None
    return engines_run_here(known_target(manifest.target))


def engines_run_here(target: Target) -> bool:
    """Say whether this machine has the runtime and the device that engines of a target need."""
    if util.find_spec(target.module) is None:
        return False
    on_gpu = target.suffix == ".plan" or target.name in ("cuda", "torch-cuda")
    return not on_gpu or _has_the_gpu(target)


def build_or_bundle(graph: Path, target: Target) -> str:
    """Return how to go on with a graph: build it, or take it to where it can be built."""
    if not builds_here(target):
        return bundle(graph, target.name)
    force = ["--force"] if default_path(graph, target).exists() else []
    return command("build", graph, "--target", target.name, *force)


def bundle(artefact: Path, target: str | None = None) -> str:
    """Return how to pack an artefact for another machine, under a name that is free."""
    stem = artefact.resolve().name if artefact.is_dir() else artefact.stem
    home = artefact.resolve().parent if artefact.is_dir() else artefact.parent
    named = [] if target is None else ["--target", target]
    number, out = 2, home / f"{stem}{SUFFIX}"
    if not out.exists():
        return command("bundle", artefact, *named)
    while out.exists():
        out = home / f"{stem}-{number}{SUFFIX}"
        number += 1
    return command("bundle", artefact, *named, "-o", out)


def predict(artefact: Path, image: Path | None, *, task: str | None = None) -> list[str]:
    """Return how to classify an image of the user's, where one is known."""
    if image is None:
        return []
    return [command("predict", artefact, *([] if task is None else ["--task", task]), image)]


def show_merge(graph: Path, manifest: Manifest, image: Path | None) -> list[str]:
    """Return how to draw the merge over an image; nothing where no tokens merge."""
    if image is None or not manifest.shows_match:
        return []
    return [command("show", graph, image, "-o", free(graph.with_name("merge.png")))]


def _has_the_gpu(target: Target) -> bool:

    try:
        capability = open_cuda().compute_capability()
    except FpetError:
        return False
    gpu = None if target.device is None else target.device.gpu
    return gpu is None or capability in (gpu.compute_capability, *gpu.other_spellings)
