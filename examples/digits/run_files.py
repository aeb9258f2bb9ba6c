"""Write and read the files of one tuning run, in the layout of the FPET authors.

Inside the run's folder: `digits.pth` (float tensors), `digits.bin` (low-bit records without names,
in traversal order), `digits.txt` (the log), `digits/params.sh` (the command line, the only place
that names the merge block), `configs/METHOD/digits-bitB-dimR.yaml` (the settings). `SHA256SUMS` is
ours: the format itself has no checksum.
"""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from examples.digits.backbone import load_backbone
from examples.digits.data import CLASS_NAMES, FOLDER
from examples.digits.model import Method, TunedViT
from fpet_export.qlinear import decode, encode

DATASET = "digits"
BACKBONE = "vit_digits_patch16_224"
"""No model of timm: a name that one has would claim to be it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What must be known, besides the tensors, to rebuild a run.

    Attributes:
        method: The tuning method.
        bits: Of the adapters' weights; 32 means float.
        width: LoRA's rank, or AdaptFormer's inner size.
        scale: Factor of the adapters' output.
        merge_block: 0-based index of the block that merges tokens.
    """

    method: Method
    bits: int
    width: int
    scale: float
    merge_block: int


def run_folder(name: str) -> Path:
    """Return the folder of the run `name`."""
    return FOLDER / "runs" / name


def write_weights(model: TunedViT, folder: Path) -> None:
    """Write the head and the adapters; quantized layers go to `digits.bin`, others to `.pth`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    records = bytearray()
    for name, layer in model.adapter_layers().items():
        if layer.bits < 32:
            records += encode(layer.weight.detach(), layer.bits)
        else:
            tensors[f"{name}.weight"] = layer.weight.detach().clone()
    for name, tensor in model.backbone.head.state_dict().items():
        tensors[f"head.{name}"] = tensor.detach().clone()
    torch.save(tensors, folder / f"{DATASET}.pth")
    (folder / f"{DATASET}.bin").write_bytes(bytes(records))


def write_settings(settings: RunSettings, folder: Path, command: Sequence[str]) -> None:
    """Write the yaml and the command line."""
    config = folder / "configs" / settings.method
    config.mkdir(parents=True, exist_ok=True)
    fields = {
        "backbone": BACKBONE,
        "bit": settings.bits,
        "dataset": DATASET,
        "dim": settings.width,
        "method": settings.method,
        "num_class": len(CLASS_NAMES),
        "scale": int(settings.scale) if settings.scale.is_integer() else settings.scale,
    }
    name = f"{DATASET}-bit{settings.bits}-dim{settings.width}.yaml"
    (config / name).write_text(yaml.safe_dump(fields))
    (folder / DATASET).mkdir(exist_ok=True)
    (folder / DATASET / "params.sh").write_text(shlex.join(command) + "\n")


def read_settings(folder: Path) -> RunSettings:
    """Read the yaml, and the merge block from the command line.

    Raises:
        ValueError: The folder holds no yaml, or several.
    """
    found = sorted(folder.glob("configs/*/*.yaml"))
    if len(found) != 1:
        raise ValueError(f"{folder}: {len(found)} yaml files instead of one")
    fields = yaml.safe_load(found[0].read_text())
    words = shlex.split((folder / DATASET / "params.sh").read_text())
    return RunSettings(
        method=fields["method"],
        bits=fields["bit"],
        width=fields["dim"],
        scale=float(fields["scale"]),
        merge_block=int(words[words.index("--r_layer") + 1]),
    )


def write_log(lines: Sequence[dict[str, float]], folder: Path) -> None:
    """Write the log, one JSON object a line."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{DATASET}.txt").write_text(text)


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` over all files that decide what the run computes."""
    paths = [
        folder / f"{DATASET}.bin",
        folder / f"{DATASET}.pth",
        folder / DATASET / "params.sh",
        *sorted(folder.glob("configs/*/*.yaml")),
    ]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in paths
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def read_run(folder: Path) -> TunedViT:
    """Rebuild a tuned model from the backbone's file and the files of a run, in eval mode.

    Raises:
        ValueError: A tensor is missing, unknown or misshapen, or bytes are left over.
    """
    settings = read_settings(folder)
    model = TunedViT(
        load_backbone(),
        method=settings.method,
        width=settings.width,
        bits=32,  # The decoded weights are used as they are.
        scale=settings.scale,
        merge_block=settings.merge_block,
        refinement_bits=32,
    )
    tensors = torch.load(folder / f"{DATASET}.pth", weights_only=True)
    records = (folder / f"{DATASET}.bin").read_bytes()
    position = 0
    weights: dict[str, torch.Tensor] = {
        f"head.{name}": tensor for name, tensor in model.backbone.head.named_parameters()
    }
    for name, layer in model.adapter_layers().items():
        bits = 1 if ".refinement." in name else settings.bits
        if bits == 32:
            weights[f"{name}.weight"] = layer.weight
            continue
        length = layer.weight.numel() * bits // 8 + 8
        record = records[position : position + length]
        if len(record) != length:
            raise ValueError(f"{folder / DATASET}.bin ends inside {name}")
        with torch.no_grad():
            layer.weight.copy_(decode(record, tuple(layer.weight.shape), bits))
        position += length
    if position != len(records):
        raise ValueError(f"{folder / DATASET}.bin: {len(records) - position} bytes left over")
    if weights.keys() != tensors.keys():
        difference = sorted(weights.keys() ^ tensors.keys())
        raise ValueError(f"{folder / DATASET}.pth: missing or unknown tensors {difference}")
    for name, parameter in weights.items():
        if parameter.shape != tensors[name].shape:
            raise ValueError(f"{name}: {tuple(tensors[name].shape)} in {folder / DATASET}.pth")
        with torch.no_grad():
            parameter.copy_(tensors[name])
    return model.eval()
