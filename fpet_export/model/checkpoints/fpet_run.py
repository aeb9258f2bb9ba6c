"""A run of the FPET authors' code: `NAME.pth`, `NAME.bin`, a YAML and `NAME/params.sh`.

`NAME.pth` holds the head, and the adapters of a 32-bit run. `NAME.bin` holds every low-bit layer
without names. The block after which tokens merge is written down in `params.sh` alone; for runs
below 32 bit it can also be found from the bytes. Everything here is strict: each expected tensor
exactly once, no byte left over, and two sources that say different things are refused.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model import methods, state_dicts
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import HEAD_NAMES, compare_shapes
from fpet_export.model.checkpoints import Checkpoint, Hints, _agreement, _records, _side_files
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.qlinear import LOW_BITS
from fpet_export.model.vit import VitSpec

_FULL_BITS = 32
_ENDINGS = (".pth.tar", ".pth")
_CODE = "the authors' FPET code (timm 0.4.12)"

_DECODED_BY = "the authors' code, whose loaders only convert an image to RGB"


def recognises(text: str) -> bool:
    """Whether `text` is a `.pth` file, `DIR/NAME` beside one, or a folder that holds some."""
    path = Path(text)
    if _ends_like_one(path):
        return True
    return path.with_name(path.name + ".pth").is_file() or bool(_runs_in(path))


def _ends_like_one(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_ENDINGS)


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if _ends_like_one(path))


def _name_of(pth: Path) -> str:
    """Return the run's name: the file's, without its ending."""
    ending = next(end for end in _ENDINGS if pth.name.lower().endswith(end))
    return pth.name[: -len(ending)]


def read(text: str, hints: Hints) -> FpetRun:
    """Read the run's files and reconcile what they say."""
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
    return FpetRun(
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


def _find_pth(path: Path) -> Path:
    if _ends_like_one(path):
        return path
    beside = path.with_name(path.name + ".pth")
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
        value: Any = getattr(hints, _option(field))
        if value is None and field in options:
            text = options[field]
            value = text if field == "method" or not text.isdecimal() else int(text)
        if value is not None:
            known[field] = Fact(value, "the command line")
    return known


@dataclasses.dataclass(frozen=True, kw_only=True)
class FpetRun:
    """What the files of one run say; see `fpet_export.model.checkpoints.Run`."""

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

    @property
    def backbone(self) -> None:
        """These runs never bring their backbone."""
        return

    @property
    def architecture(self) -> Fact[str] | None:
        """The YAML's backbone field, as timm names the architecture."""
        name = self.config.get("backbone")
        if not isinstance(name, str) or self.config_path is None:
            return None
        return Fact(re.sub(r"_in21k$", "", name), self.config_path.name)

    @property
    def pool(self) -> Fact[str]:
        """The class token: timm 0.4.12, which this code pins, has no other way."""
        return Fact("class", _CODE)

    @property
    def normalisation(self) -> Fact[str]:
        """None: the authors' loaders divide by 255 and no more."""
        return Fact("none", f"{_CODE}, which only divides pixels by 255")

    @property
    def weights(self) -> frozenset[str]:
        """What `--weights` may call the set of weights that was read."""
        return self.found.names

    def head_width(self, depth: int, width: int) -> tuple[int, str] | None:
        """Return the head width that the refinement's length reveals, if there is one."""
        if self.stream is None:
            return None
        settings = self._settings()
        layers = self._stream_layers(settings, width)
        layout = _records.StreamLayout(
            layers=layers, depth=depth, bits=settings["bit"].value, head_width=0
        )
        found = _records.head_width_of(len(self.stream) - layout.adapter_bytes())
        return None if found is None or width % found else (found, self.stream_path.name)

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Decode the run for its backbone; see `fpet_export.model.checkpoints.Run`."""
        settings = self._settings()
        facts: dict[str, Fact[Any]] = settings | self.found.facts
        facts["decode"] = Fact("plain", _DECODED_BY)
        head = self._head(spec, facts)
        factors, refinement = self._decode_stream(spec, settings, facts)
        if settings["bit"].value == _FULL_BITS:
            factors = self._dense_factors(spec, settings)
        else:
            self._refuse_leftovers([])
        return Checkpoint(
            name=self.name,
            method=settings["method"].value,
            bit=settings["bit"].value,
            dim=settings["dim"].value,
            scale=float(settings["scale"].value),
            merge_block=facts["merge block"].value,
            factors=tuple(factors),
            refinement=refinement,
            head=head,
            quality="trained",
            files=self.files,
            facts=facts,
        )

    def check(self, backbone: Backbone) -> None:
        """Refuse another network than the YAML names, or other weights than the run's own file."""
        _agreement.same_network(self.architecture, backbone, where=str(self.config_path))
        _agreement.same_pool(self.pool, backbone, where=str(self.path))
        _agreement.same_weights(self.whole, backbone, path=self.path)

    # -- settings: method, bit, dim, scale ---------------------------------------------------

    def _settings(self) -> dict[str, Fact[Any]]:
        """Return method, bit, dim and scale, each with its source.

        Raises:
            CheckpointError: Sources disagree, or a fact is nowhere.
        """
        claims = self._claims()
        settings: dict[str, Fact[Any]] = {}
        open_facts = []
        for field, found in claims.items():
            fact = reconcile(field, found, where=str(self.path))
            if fact is None:
                open_facts.append(field)
            else:
                settings[field] = fact
        if open_facts:
            wanted = [_option(field) for field in open_facts]
            options = " ".join(f"--{name} …" for name in wanted)
            raise CheckpointError(
                f"nothing says the {' and the '.join(wanted)} of this run: no YAML, no "
                f"params.sh, and the bytes fit more than one{self._fitting()}",
                where=str(self.path),
                fix=f"give the run's YAML (--config FILE), or {options}",
            )
        self._check_settings(settings)
        return settings

    def _claims(self) -> dict[str, list[Fact[Any]]]:
        source = self.config_path.name if self.config_path else ""
        self._check_dataset()
        claims: dict[str, list[Fact[Any]]] = {"method": [], "bit": [], "dim": [], "scale": []}
        for field, found in claims.items():
            if self.config.get(field) is not None:
                found.append(Fact(self.config[field], source))
        if self.config_path is not None:
            for field, named in _side_files.path_claims(self.config_path).items():
                claims[field].append(named)
        if "method" in self.params:
            claims["method"].append(Fact(self.params["method"], "params.sh"))
        for field in ("bit", "dim"):
            value = _side_files.number(self.params, field, where="params.sh")
            if value is not None:
                claims[field].append(Fact(value, "params.sh"))
        scale = _side_files.real(self.params, "scale", where="params.sh")
        if scale:  # 0 stands for "as the YAML says" in the authors' scripts
            claims["scale"].append(Fact(scale, "params.sh"))
        for field, dense in self._claims_of_tensors().items():
            claims[field].append(dense)
        for field, found in claims.items():
            hint = getattr(self.hints, _option(field))
            if hint is not None:
                found.append(Fact(hint, f"--{_option(field)}"))
        return claims

    def _check_dataset(self) -> None:
        """Refuse a YAML or a params.sh that says it belongs to a run of another name."""
        said = [(self.params.get("dataset"), "params.sh")]
        if self.hints.config is None and self.config_path is not None:
            said.append((self.config.get("dataset"), self.config_path.name))
        for name, source in said:
            if name is not None and name != self.name:
                raise CheckpointError(
                    f"the run is called {self.name!r}, but {source} belongs to {name!r}",
                    where=str(self.path),
                    fix="find the side files of this run, or give its YAML: --config FILE",
                )

    def _claims_of_tensors(self) -> dict[str, Fact[Any]]:
        """Return method, bit and dim as the tensors of a 32-bit run show them."""
        adapters = {name: t for name, t in self.tensors.items() if name not in HEAD_NAMES}
        if not adapters:
            return {}
        for name, method in methods.all_methods().items():
            first = method.layers(1, 1)[0].name
            key = f"blocks.0.{first}.weight"
            if key in adapters and adapters[key].ndim == 2:
                source = "the tensors in " + self.path.name
                return {
                    "method": Fact(name, source),
                    "bit": Fact(_FULL_BITS, source),
                    "dim": Fact(adapters[key].shape[0], source),
                }
        self._refuse_leftovers([])
        return {}

    def _check_settings(self, settings: dict[str, Fact[Any]]) -> None:
        methods.load(settings["method"].value)
        bit, dim = settings["bit"], settings["dim"]
        if bit.value not in (*LOW_BITS, _FULL_BITS):
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

    def _fitting(self) -> str:
        head = self.tensors.get("head.weight")
        if self.stream is None or head is None or head.ndim != 2:
            return ""
        width = head.shape[-1]
        fits = _records.settings_that_fit(len(self.stream), depth=12, width=width, head_width=64)
        return f" (12 blocks: {'; '.join(fits[:6])})" if fits else ""

    # -- weights -----------------------------------------------------------------------------

    def _head(self, spec: VitSpec, facts: dict[str, Fact[Any]]) -> dict[str, torch.Tensor]:
        head = {name: self.tensors[name] for name in HEAD_NAMES if name in self.tensors}
        weight = head.get("head.weight")
        if weight is None or weight.ndim != 2 or not len(weight):
            raise CheckpointError(
                "head.weight is missing, empty or not a matrix",
                where=str(self.path),
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
                where=str(self.path),
                fix="give the backbone the run was trained on: --backbone FILE",
            )
        claimed = self.config.get("num_class")
        if claimed is not None and claimed != classes:
            raise CheckpointError(
                f"the head has {classes} classes, {self.config_path and self.config_path.name} "
                f"says {claimed}",
                where=str(self.path),
                fix="these files belong to two runs; find the YAML of this one",
            )
        facts["classes"] = Fact(classes, "the shape of head.weight")
        return {name: _finite(name, tensor, self.path) for name, tensor in head.items()}

    def _dense_factors(
        self, spec: VitSpec, settings: dict[str, Fact[Any]]
    ) -> list[dict[str, torch.Tensor]]:
        layers = methods.load(settings["method"].value).layers(spec.width, settings["dim"].value)
        wanted = {
            f"blocks.{block}.{layer.name}.weight": layer.shape
            for block in range(spec.depth)
            for layer in layers
        }
        self._refuse_leftovers(list(wanted))
        found = {n: tuple(t.shape) for n, t in self.tensors.items() if n not in HEAD_NAMES}
        problems = compare_shapes(found, wanted)
        if problems:
            raise CheckpointError(
                f"the adapters do not fit {spec.describe()}: {problems}",
                where=str(self.path),
                fix="give the backbone the run was trained on (--backbone FILE), or check "
                "--method and --rank",
            )
        return [
            {
                layer.name: _finite(key, self.tensors[key], self.path)
                for layer in layers
                for key in [f"blocks.{block}.{layer.name}.weight"]
            }
            for block in range(spec.depth)
        ]

    def _refuse_leftovers(self, wanted: list[str]) -> None:
        rest = sorted(set(self.tensors) - set(wanted) - set(HEAD_NAMES))
        if rest:
            raise CheckpointError(
                f"{len(rest)} tensors belong to no known method: {', '.join(rest[:3])}",
                where=str(self.path),
                fix=f"known methods are {', '.join(methods.all_methods())}; check --method, --bit",
            )

    def _stream_layers(
        self, settings: dict[str, Fact[Any]], width: int
    ) -> tuple[methods.Layer, ...]:
        if settings["bit"].value == _FULL_BITS:
            return ()
        method = methods.load(settings["method"].value)
        return tuple(method.layers(width, settings["dim"].value))

    def _decode_stream(
        self, spec: VitSpec, settings: dict[str, Fact[Any]], facts: dict[str, Fact[Any]]
    ) -> tuple[list[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor] | None]:
        layers = self._stream_layers(settings, spec.width)
        layout = _records.StreamLayout(
            layers=layers,
            depth=spec.depth,
            bits=settings["bit"].value,
            head_width=spec.head_width,
        )
        stream = self.stream or b""
        if self.stream == b"":
            raise CheckpointError(
                f"{self.stream_path.name} is empty; the training writes no file rather than an "
                "empty one",
                where=str(self.stream_path),
                fix="fetch the file again",
            )
        for layer in layers:
            if math.prod(layer.shape) * layout.bits % 8:
                raise CheckpointError(
                    f"{layer.name} of shape {layer.shape} at {layout.bits} bit is not a whole "
                    "number of bytes; the authors' writer loses its last codes",
                    where=str(self.stream_path),
                    fix="check --bit and --rank; a run like this cannot be read back",
                )
        if layers and self.stream is None:
            raise CheckpointError(
                f"{self.stream_path.name} is missing; a {settings['bit'].value}-bit run keeps its "
                "adapters there",
                where=str(self.stream_path.parent),
                fix="copy it beside the .pth file, or check --bit",
            )
        merges = self._has_refinement(stream, layout, spec, settings)
        facts["merge block"] = self._merge_block(stream, layout, merges)
        block = facts["merge block"].value
        _records.check_plausible(stream, layout, block, where=str(self.stream_path))
        return _records.decode(stream, layout, block)

    def _has_refinement(
        self,
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
            f"{self.stream_path.name} has {len(stream)} bytes; {settings['method'].value} "
            f"bit {settings['bit'].value} rank {settings['dim'].value} on {spec.describe()} "
            f"needs {wanted}",
            where=str(self.stream_path),
            fix=f"these settings fit: {'; '.join(fits[:6])}"
            if fits
            else "no known setting fits: the file is cut off, or belongs to another backbone",
        )

    def _merge_block(
        self, stream: bytes, layout: _records.StreamLayout, merges: bool
    ) -> Fact[int | None]:
        """Reconcile what params.sh, the user and the bytes say about the merge."""
        claims: list[Fact[int | None]] = []
        said = _side_files.number(self.params, "r_layer", where="params.sh")
        if said is not None:
            # 0 switches merging off in the authors' code, and a block past the end never comes.
            claims.append(Fact(said if 0 < said < layout.depth else None, "params.sh"))
        if self.hints.merge_block is not None:
            hint = self.hints.merge_block
            claims.append(Fact(None if hint == "none" else hint, "--merge-block"))
        if not merges:
            claims.append(Fact(None, "the bytes: there is no refinement adapter"))
        elif layout.layers:
            claims += self._merge_block_of_bytes(stream, layout, claims)
        fact = reconcile("the merge block", claims, where=str(self.path))
        if fact is None:
            raise CheckpointError(
                "this run merges tokens, but nothing says after which block: there is no "
                f"params.sh, and a 32-bit {self.stream_path.name} does not reveal it",
                where=str(self.path),
                fix=f"copy the run's {self.name}/params.sh beside it, or add --merge-block N "
                "(the authors' scripts use 6)",
            )
        if fact.value is None and merges:
            raise CheckpointError(
                f"{self.stream_path.name} holds a refinement adapter, but {fact.source} says that "
                "nothing merges",
                where=str(self.path),
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
        self, stream: bytes, layout: _records.StreamLayout, claims: list[Fact[int | None]]
    ) -> list[Fact[int | None]]:
        possible = _records.possible_merge_blocks(stream, layout)
        if len(possible) == 1:
            return [Fact(possible[0], "the bytes: the only block whose records make sense")]
        if claims:
            return []  # what the user or params.sh says is checked record by record later
        if possible:
            raise CheckpointError(
                f"the bytes fit a merge after block {' or '.join(map(str, possible))}",
                where=str(self.stream_path),
                fix="copy the run's params.sh beside it, or add --merge-block N",
            )
        raise CheckpointError(
            "no merge block gives records that make sense",
            where=str(self.stream_path),
            fix="check --method, --bit and --rank; or the file is damaged",
        )


def _option(field: str) -> str:
    """Return the option that states a field of the authors' YAML: their `dim` is our `--rank`."""
    return {"dim": "rank"}.get(field, field)


def _is_tuned(name: str) -> bool:
    """Whether a tensor belongs to what training changes: a head, or a layer of a method."""
    return name in HEAD_NAMES or "adapter_" in name or ".lora_" in name


def _finite(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise CheckpointError(
            f"{name} is {tensor.dtype} or holds NaN or infinity",
            where=str(path),
            fix="the file is damaged; fetch it again",
        )
    return tensor.float()
