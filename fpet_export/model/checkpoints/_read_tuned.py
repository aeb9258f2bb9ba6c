"""Reading a file that the code of a tuning method saved, with its YAML and its checksums."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from engines.errors import CheckpointError, UsageError
from fpet_export.model import state_dicts
from fpet_export.model.checkpoints import Hints, _contents, _side_files
from fpet_export.model.checkpoints._tuned_file import TunedFile

Found = TypeVar("Found", bound=TunedFile)

_OF_OTHERS = (
    "bit",
    "rank",
    "scale",
    "alpha",
    "channel_shuffle",
    "qkv_slots",
    "config",
    "head_weights",
    "gate",
)
"""What `Hints` says of a method, and a format may have no use for."""

_CONFIG_NAMES = ("{name}.yaml", "configs/{folder}/{name}.yaml", "configs/{name}.yaml")
_LEVELS_UP = 3


def read_tuned(kind: type[Found], text: str, hints: Hints, *anchors: str) -> Found:
    """Read a file of one of these formats.

    Args:
        kind: The format's class.
        text: The file.
        hints: What the user says about it.
        anchors: Names of tensors that show the prefix of all; see `state_dicts.read`.

    Raises:
        CheckpointError: The file cannot be read, or two YAML files fit it.
        TrustError: It is not what the list of checksums beside it says.
        UsageError: The user describes another method.
    """
    path = Path(text)
    _refuse_hints(kind, hints, path)
    config_path = _config_of(path, hints) if "config" in kind.says else None
    config = {} if config_path is None else _side_files.read_config(config_path)
    beside = [] if config_path is None else [config_path]
    checksums = _side_files.verify_checksums(path.parent, [path], beside)
    found = state_dicts.read(path, anchors, weights=hints.weights)
    run = kind(
        path=path,
        found=found,
        hints=hints,
        config=config,
        config_path=config_path,
        checksums=checksums,
    )
    _check_config(run)
    return run


def _refuse_hints(kind: type[TunedFile], hints: Hints, path: Path) -> None:
    for field in _OF_OTHERS:
        if getattr(hints, field) is not None and field not in kind.says:
            option = f"--{field.replace('_', '-')}"
            raise UsageError(
                f"{option} means nothing for a {kind.method} run",
                where=str(path),
                fix=f"leave {option} out",
            )
    if hints.method not in (None, kind.method):
        raise UsageError(
            f"--method says {hints.method!r}, but the tensors are those of {kind.method}",
            where=str(path),
            fix="leave --method out",
        )


def _config_of(path: Path, hints: Hints) -> Path | None:
    """Return the run's YAML: the one that is named, or `NAME.yaml` beside it or in `configs/`."""
    if hints.config is not None:
        return hints.config
    folder = path.resolve().parent
    names = {"name": _contents.stem(path), "folder": folder.name}
    for level in (folder, *folder.parents[:_LEVELS_UP]):
        found = [level / pattern.format(**names) for pattern in _CONFIG_NAMES]
        found = [file for file in found if file.is_file()]
        if len(found) > 1:
            raise CheckpointError(
                f"{len(found)} configurations fit this run: {', '.join(map(str, found))}",
                where=str(path),
                fix=f"choose one: --config {found[0]}",
            )
        if found:
            return found[0]
    return None


def _check_config(run: TunedFile) -> None:
    """Refuse a YAML that describes a run of another name or with another number of classes."""
    source = "" if run.config_path is None else run.config_path.name
    named = run.config.get("name")
    if run.hints.config is None and named is not None and named != run.name:
        raise CheckpointError(
            f"the run is called {run.name!r}, but {source} belongs to {named!r}",
            where=str(run.path),
            fix="give the YAML of this run: --config FILE",
        )
    head = run.found.tensors.get("head.weight")
    for field in ("class_num", "num_class"):
        claimed = run.config.get(field)
        if claimed is not None and head is not None and claimed != len(head):
            raise CheckpointError(
                f"the head has {len(head)} classes, {source} says {claimed}",
                where=str(run.path),
                fix="these files belong to two runs; find the YAML of this one",
            )
