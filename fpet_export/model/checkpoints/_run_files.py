"""The files of a run of the FPET authors' code, found and read; nothing is reconciled yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model import methods, state_dicts
from fpet_export.model.backbones._names import HEAD_NAMES
from fpet_export.model.checkpoints import Hints, _contents, _side_files
from fpet_export.model.checkpoints._overlay import is_overlay
from fpet_export.model.facts import Fact

_ENDINGS = (".pth.tar", ".pth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What the files of one run hold.

    Attributes:
        name: The run's name: the file's, without its ending.
        path: `NAME.pth`.
        found: What was read of it.
        tensors: Its tensors of what training changes.
        whole: Its tensors of the backbone, where it holds one too.
        stream: The bytes of `NAME.bin`; None where there is none.
        stream_path: Where that lies, or would.
        params: The settings in `NAME/params.sh`.
        config: The run's YAML.
        config_path: Where it lies; None where there is none.
        hints: What the user says about the run.
        files: All files that were read.
    """

    name: str
    path: Path
    found: state_dicts.StateDict
    tensors: Mapping[str, torch.Tensor]
    whole: Mapping[str, torch.Tensor]
    stream: bytes | None
    stream_path: Path
    params: Mapping[str, str]
    config: Mapping[str, Any]
    config_path: Path | None
    hints: Hints
    files: tuple[Path, ...]


def recognises(text: str) -> bool:
    """Whether `text` is a `.pth` file, `DIR/NAME` beside one, or a folder that holds some."""
    path = Path(text)
    if _ends_like_one(path):
        return True
    return Path(f"{path}.pth").is_file() or bool(_runs_in(path))


def read_files(text: str, hints: Hints) -> RunFiles:
    """Read the files of the run that `text` names."""
    pth = _find_pth(Path(text))
    folder, name = pth.parent, _name_of(pth)
    stream_path = folder / f"{name}.bin"
    params_path = folder / name / "params.sh"
    known = _known(hints, params_path)
    config_path = hints.config or _side_files.find_config(folder, name, known)
    texts = [params_path, *([config_path] if config_path else [])]
    checksums = _side_files.verify_checksums(folder, [pth, stream_path], texts)
    files = [path for path in (pth, stream_path, *texts) if path.is_file()]
    found = state_dicts.read(pth, ["head.weight"], weights=hints.weights)
    whole = {}
    if "patch_embed.proj.weight" in found.tensors:  # the file holds the backbone too
        whole = {name: tensor for name, tensor in found.tensors.items() if not _is_tuned(name)}
    return RunFiles(
        name=name,
        path=pth,
        found=found,
        tensors={name: tensor for name, tensor in found.tensors.items() if name not in whole},
        whole=whole,
        stream=stream_path.read_bytes() if stream_path.is_file() else None,
        stream_path=stream_path,
        params=_side_files.read_params(params_path) if params_path.is_file() else {},
        config=_side_files.read_config(config_path) if config_path else {},
        config_path=config_path,
        hints=hints,
        files=tuple(files) + ((checksums,) if checksums else ()),
    )


def option(field: str) -> str:
    """Return the option that states a field of the authors' YAML: their `dim` is our `--rank`."""
    return {"dim": "rank"}.get(field, field)


def refuse_leftovers(files: RunFiles, wanted: list[str]) -> None:
    """Refuse tensors that are neither wanted nor a head's."""
    rest = sorted(set(files.tensors) - set(wanted) - set(HEAD_NAMES))
    if rest:
        raise CheckpointError(
            f"{len(rest)} tensors belong to no known method: {', '.join(rest[:3])}",
            where=str(files.path),
            fix=f"known methods are {', '.join(methods.all_methods())}; check --method, --bit",
        )


def _ends_like_one(path: Path) -> bool:
    """Whether a file is named like one of a run, and is nothing that another format knows."""
    named = path.is_file() and path.name.lower().endswith(_ENDINGS)
    others = (_contents.is_tuned_file, _contents.is_whole_model, is_overlay)
    return named and not any(other(path) for other in others)


def _runs_in(folder: Path) -> list[Path]:
    """Return the runs in a folder; beside another program's model, only what has a head."""
    found = sorted(path for path in folder.glob("*") if _ends_like_one(path))
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return found
    return [path for path in found if _contents.holds(path, *HEAD_NAMES)]


def _name_of(pth: Path) -> str:
    """Return the run's name: the file's, without its ending."""
    ending = next(end for end in _ENDINGS if pth.name.lower().endswith(end))
    return pth.name[: -len(ending)]


def _find_pth(path: Path) -> Path:
    if _ends_like_one(path):
        return path
    beside = Path(f"{path}.pth")
    if beside.is_file():
        return beside
    found = _runs_in(path)
    if len(found) > 1:
        raise CheckpointError(
            f"this folder holds {len(found)} runs: {', '.join(p.name for p in found[:5])}",
            where=str(path),
            fix=f"name one of them: {found[0]}",
        )
    return found[0]


def _known(hints: Hints, params_path: Path) -> dict[str, Fact[Any]]:
    """Return what narrows the search for the YAML, before anything is reconciled."""
    options = _side_files.read_params(params_path) if params_path.is_file() else {}
    known: dict[str, Fact[Any]] = {}
    for field in ("method", "bit", "dim"):
        value: Any = getattr(hints, option(field))
        if value is None and field in options:
            text = options[field]
            value = text if field == "method" or not text.isdecimal() else int(text)
        if value is not None:
            known[field] = Fact(value, "the command line")
    return known


def _is_tuned(name: str) -> bool:
    """Whether a tensor belongs to what training changes: a head, or a layer of a method."""
    return name in HEAD_NAMES or "adapter_" in name or ".lora_" in name
