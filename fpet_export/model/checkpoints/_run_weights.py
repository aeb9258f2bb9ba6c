"""The weights of a run of the authors' code: head, adapters, refinement, and where tokens merge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model import methods
from fpet_export.model.backbones._names import HEAD_NAMES, compare_shapes
from fpet_export.model.checkpoints import _records, _side_files
from fpet_export.model.checkpoints._run_files import RunFiles, refuse_leftovers
from fpet_export.model.checkpoints._run_settings import FULL_BITS
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.vit_spec import VitSpec


def head_of(files: RunFiles, spec: VitSpec, facts: dict[str, Fact[Any]]) -> dict[str, torch.Tensor]:
    """Return the head, and state the number of classes among the facts."""
    head = {name: files.tensors[name] for name in HEAD_NAMES if name in files.tensors}
    weight = head.get("head.weight")
    if weight is None or weight.ndim != 2 or not len(weight):
        raise CheckpointError(
            "head.weight is missing, empty or not a matrix",
            where=str(files.path),
            fix="give the .pth file that the run's training wrote",
        )
    classes = weight.shape[0]
    wanted = {"head.weight": (classes, spec.width), "head.bias": (classes,)}
    if spec.pool == "class+dist":
        wanted |= {"head_dist.weight": (classes, spec.width), "head_dist.bias": (classes,)}
    problems = compare_shapes({n: tuple(t.shape) for n, t in head.items()}, wanted)
    if problems:
        raise CheckpointError(
            f"the head does not fit a backbone of width {spec.width}: {problems}",
            where=str(files.path),
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    claimed = files.config.get("num_class")
    if claimed is not None and claimed != classes:
        raise CheckpointError(
            f"the head has {classes} classes, {files.config_path and files.config_path.name} "
            f"says {claimed}",
            where=str(files.path),
            fix="these files belong to two runs; find the YAML of this one",
        )
    facts["classes"] = Fact(classes, "the shape of head.weight")
    return {name: _finite(name, tensor, files.path) for name, tensor in head.items()}


def dense_factors(
    files: RunFiles, spec: VitSpec, settings: dict[str, Fact[Any]]
) -> list[dict[str, torch.Tensor]]:
    """Return each block's adapter weights of a 32-bit run."""
    layers = methods.load(settings["method"].value).layers(spec.width, settings["dim"].value)
    wanted = {
        f"blocks.{block}.{layer.name}.weight": layer.shape
        for block in range(spec.depth)
        for layer in layers
    }
    refuse_leftovers(files, list(wanted))
    found = {n: tuple(t.shape) for n, t in files.tensors.items() if n not in HEAD_NAMES}
    problems = compare_shapes(found, wanted)
    if problems:
        raise CheckpointError(
            f"the adapters do not fit {spec.describe()}: {problems}",
            where=str(files.path),
            fix="give the backbone the run was trained on (--backbone FILE), or check "
            "--method and --rank",
        )
    return [
        {
            layer.name: _finite(key, files.tensors[key], files.path)
            for layer in layers
            for key in [f"blocks.{block}.{layer.name}.weight"]
        }
        for block in range(spec.depth)
    ]


def stream_layers(settings: dict[str, Fact[Any]], width: int) -> tuple[methods.Layer, ...]:
    """Return the adapter of one block, in the order of the stream; empty for a 32-bit run."""
    if settings["bit"].value == FULL_BITS:
        return ()
    method = methods.load(settings["method"].value)
    return tuple(method.layers(width, settings["dim"].value))


def decode_stream(
    files: RunFiles, spec: VitSpec, settings: dict[str, Fact[Any]], facts: dict[str, Fact[Any]]
) -> tuple[list[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor] | None]:
    """Return what `NAME.bin` holds, and state the merge block among the facts."""
    layers = stream_layers(settings, spec.width)
    layout = _records.StreamLayout(
        layers=layers,
        depth=spec.depth,
        bits=settings["bit"].value,
        head_width=spec.head_width,
    )
    stream = files.stream or b""
    if files.stream == b"":
        raise CheckpointError(
            f"{files.stream_path.name} is empty; the training writes no file rather than an "
            "empty one",
            where=str(files.stream_path),
            fix="fetch the file again",
        )
    for layer in layers:
        if math.prod(layer.shape) * layout.bits % 8:
            raise CheckpointError(
                f"{layer.name} of shape {layer.shape} at {layout.bits} bit is not a whole "
                "number of bytes; the authors' writer loses its last codes",
                where=str(files.stream_path),
                fix="check --bit and --rank; a run like this cannot be read back",
            )
    if layers and files.stream is None:
        raise CheckpointError(
            f"{files.stream_path.name} is missing; a {settings['bit'].value}-bit run keeps its "
            "adapters there",
            where=str(files.stream_path.parent),
            fix="copy it beside the .pth file, or check --bit",
        )
    merges = _has_refinement(files, stream, layout, spec, settings)
    facts["merge block"] = _merge_block(files, stream, layout, merges)
    block = facts["merge block"].value
    _records.check_plausible(stream, layout, block, where=str(files.stream_path))
    return _records.decode(stream, layout, block)


def _has_refinement(
    files: RunFiles,
    stream: bytes,
    layout: _records.StreamLayout,
    spec: VitSpec,
    settings: dict[str, Fact[Any]],
) -> bool:
    """Whether the stream's length includes a refinement; refuse every other length."""
    plain = layout.adapter_bytes()
    merged = plain + _records.refinement_bytes(spec.head_width)
    if len(stream) in (plain, merged):
        return len(stream) == merged
    fits = _records.settings_that_fit(
        len(stream), depth=spec.depth, width=spec.width, head_width=spec.head_width
    )
    wanted = f"{merged} with FPET or {plain} without" if plain else f"{merged}, or no file"
    raise CheckpointError(
        f"{files.stream_path.name} has {len(stream)} bytes; {settings['method'].value} "
        f"bit {settings['bit'].value} rank {settings['dim'].value} on {spec.describe()} "
        f"needs {wanted}",
        where=str(files.stream_path),
        fix=f"these settings fit: {'; '.join(fits[:6])}"
        if fits
        else "no known setting fits: the file is cut off, or belongs to another backbone",
    )


def _merge_block(
    files: RunFiles, stream: bytes, layout: _records.StreamLayout, merges: bool
) -> Fact[int | None]:
    """Reconcile what params.sh, the user and the bytes say about the merge."""
    claims: list[Fact[int | None]] = []
    said = _side_files.number(files.params, "r_layer", where="params.sh")
    if said is not None:
        # 0 switches merging off in the authors' code, and a block past the end never comes.
        claims.append(Fact(said if 0 < said < layout.depth else None, "params.sh"))
    if files.hints.merge_block is not None:
        hint = files.hints.merge_block
        claims.append(Fact(None if hint == "none" else hint, "--merge-block"))
    if not merges:
        claims.append(Fact(None, "the bytes: there is no refinement adapter"))
    elif layout.layers:
        claims += _merge_block_of_bytes(files, stream, layout, claims)
    fact = reconcile("the merge block", claims, where=str(files.path))
    if fact is None:
        raise CheckpointError(
            "this run merges tokens, but nothing says after which block: there is no "
            f"params.sh, and a 32-bit {files.stream_path.name} does not reveal it",
            where=str(files.path),
            fix=f"copy the run's {files.name}/params.sh beside it, or add --merge-block N "
            "(the authors' scripts use 6)",
        )
    if fact.value is None and merges:
        raise CheckpointError(
            f"{files.stream_path.name} holds a refinement adapter, but {fact.source} says that "
            "nothing merges",
            where=str(files.path),
            fix="find the params.sh of this run, or give its --merge-block N",
        )
    if fact.value is not None and not 0 <= fact.value < layout.depth:
        raise CheckpointError(
            f"merge block {fact.value} is not one of 0 to {layout.depth - 1}",
            where=fact.source,
            fix="count blocks from 0",
        )
    return fact


def _merge_block_of_bytes(
    files: RunFiles, stream: bytes, layout: _records.StreamLayout, claims: list[Fact[int | None]]
) -> list[Fact[int | None]]:
    possible = _records.possible_merge_blocks(stream, layout)
    if len(possible) == 1:
        return [Fact(possible[0], "the bytes: the only block whose records make sense")]
    if claims:
        return []  # what the user or params.sh says is checked record by record later
    if possible:
        raise CheckpointError(
            f"the bytes fit a merge after block {' or '.join(map(str, possible))}",
            where=str(files.stream_path),
            fix="copy the run's params.sh beside it, or add --merge-block N",
        )
    raise CheckpointError(
        "no merge block gives records that make sense",
        where=str(files.stream_path),
        fix="check --method, --bit and --rank; or the file is damaged",
    )


def _finite(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise CheckpointError(
            f"{name} is {tensor.dtype} or holds NaN or infinity",
            where=str(path),
            fix="the file is damaged; fetch it again",
        )
    return tensor.float()
