"""The settings of a run of the authors' code, each with its source: method, bit, dim, scale."""

from __future__ import annotations

import math
from typing import Any

from engines.errors import CheckpointError
from fpet_export.model import methods
from fpet_export.model.backbones._names import HEAD_NAMES
from fpet_export.model.checkpoints import _records, _side_files
from fpet_export.model.checkpoints._run_files import RunFiles, option, refuse_leftovers
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.qlinear import LOW_BITS

FULL_BITS = 32


def settings_of(files: RunFiles) -> dict[str, Fact[Any]]:
    """Return method, bit, dim and scale, each with its source.

    Raises:
        CheckpointError: Sources disagree, or a fact is nowhere.
    """
    claims = _claims(files)
    settings: dict[str, Fact[Any]] = {}
    open_facts = []
    for field, found in claims.items():
        fact = reconcile(field, found, where=str(files.path))
        if fact is None:
            open_facts.append(field)
        else:
            settings[field] = fact
    if open_facts:
        wanted = [option(field) for field in open_facts]
        options = " ".join(f"--{name} …" for name in wanted)
        raise CheckpointError(
            f"nothing says the {' and the '.join(wanted)} of this run: no YAML, no "
            f"params.sh, and the bytes fit more than one{_fitting(files)}",
            where=str(files.path),
            fix=f"give the run's YAML (--config FILE), or {options}",
        )
    _check_settings(settings)
    return settings


def _claims(files: RunFiles) -> dict[str, list[Fact[Any]]]:
    source = files.config_path.name if files.config_path else ""
    _check_dataset(files)
    claims: dict[str, list[Fact[Any]]] = {"method": [], "bit": [], "dim": [], "scale": []}
    for field, found in claims.items():
        if files.config.get(field) is not None:
            found.append(Fact(files.config[field], source))
    if files.config_path is not None:
        for field, named in _side_files.path_claims(files.config_path).items():
            claims[field].append(named)
    if "method" in files.params:
        claims["method"].append(Fact(files.params["method"], "params.sh"))
    for field in ("bit", "dim"):
        value = _side_files.number(files.params, field, where="params.sh")
        if value is not None:
            claims[field].append(Fact(value, "params.sh"))
    scale = _side_files.real(files.params, "scale", where="params.sh")
    if scale:  # 0 stands for "as the YAML says" in the authors' scripts
        claims["scale"].append(Fact(scale, "params.sh"))
    for field, dense in _claims_of_tensors(files).items():
        claims[field].append(dense)
    for field, found in claims.items():
        hint = getattr(files.hints, option(field))
        if hint is not None:
            found.append(Fact(hint, f"--{option(field)}"))
    return claims


def _check_dataset(files: RunFiles) -> None:
    """Refuse a YAML or a params.sh that says it belongs to a run of another name."""
    said = [(files.params.get("dataset"), "params.sh")]
    if files.hints.config is None and files.config_path is not None:
        said.append((files.config.get("dataset"), files.config_path.name))
    for name, source in said:
        if name is not None and name != files.name:
            raise CheckpointError(
                f"the run is called {files.name!r}, but {source} belongs to {name!r}",
                where=str(files.path),
                fix="find the side files of this run, or give its YAML: --config FILE",
            )


def _claims_of_tensors(files: RunFiles) -> dict[str, Fact[Any]]:
    """Return method, bit and dim as the tensors of a 32-bit run show them."""
    adapters = {name: t for name, t in files.tensors.items() if name not in HEAD_NAMES}
    if not adapters:
        return {}
    for name, method in methods.all_methods().items():
        first = method.layers(1, 1)[0].name
        key = f"blocks.0.{first}.weight"
        if key in adapters and adapters[key].ndim == 2:
            source = "the tensors in " + files.path.name
            return {
                "method": Fact(name, source),
                "bit": Fact(FULL_BITS, source),
                "dim": Fact(adapters[key].shape[0], source),
            }
    refuse_leftovers(files, [])
    return {}


def _check_settings(settings: dict[str, Fact[Any]]) -> None:
    methods.load(settings["method"].value)
    bit, dim = settings["bit"], settings["dim"]
    if bit.value not in (*LOW_BITS, FULL_BITS):
        raise CheckpointError(
            f"bit is {bit.value}, wanted 1, 2, 4, 8 or 32", where=bit.source, fix="correct it"
        )
    if dim.value < 1:
        raise CheckpointError(
            f"dim is {dim.value}, wanted at least 1", where=dim.source, fix="correct it"
        )
    scale = settings["scale"]
    if not math.isfinite(scale.value):
        raise CheckpointError(
            f"scale is {scale.value}, wanted a number", where=scale.source, fix="correct it"
        )


def _fitting(files: RunFiles) -> str:
    head = files.tensors.get("head.weight")
    if files.stream is None or head is None or head.ndim != 2:
        return ""
    width = head.shape[-1]
    fits = _records.settings_that_fit(len(files.stream), depth=12, width=width, head_width=64)
    return f" (12 blocks: {'; '.join(fits[:6])})" if fits else ""
