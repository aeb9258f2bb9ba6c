"""Write and read the files of one tuning run, in the layout of the FPET authors.

Inside the run's folder, with the name of the data set for NAME: `NAME.pth` (float tensors),
`NAME.bin` (low-bit records without names, in traversal order), `NAME.txt` (the log),
`NAME/params.sh` (the command line, the only place that names the merge block),
`configs/METHOD/NAME-bitB-dimR.yaml` (the settings). `SHA256SUMS` is ours: the format itself has no
checksum.
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from timm.models.vision_transformer import VisionTransformer

from examples.training.model import Method, TunedViT
from fpet_export.model.qlinear import decode, encode


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What must be known, besides the tensors, to rebuild a run.

    Attributes:
        method: The tuning method.
        bits: Bits of the adapters' weights; 32 means float.
        width: LoRA's rank, or AdaptFormer's inner size.
        scale: Factor of the adapters' output.
        merge_block: 0-based index of the block that merges tokens.
    """

    method: Method
    bits: int
    width: int
    scale: float
    merge_block: int


def attach(backbone: VisionTransformer, settings: RunSettings) -> TunedViT:
    """Return a backbone with untrained adapters, as the settings say."""
    return TunedViT(
        backbone,
        method=settings.method,
        width=settings.width,
        bits=settings.bits,
        scale=settings.scale,
        merge_block=settings.merge_block,
    )


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of one run.

    Attributes:
        folder: Folder of the run.
        dataset: Name of the data set, from which the files have theirs.
    """

    folder: Path
    dataset: str

    @property
    def tensors(self) -> Path:
        """The float tensors."""
        return self.folder / f"{self.dataset}.pth"

    @property
    def records(self) -> Path:
        """The low-bit records."""
        return self.folder / f"{self.dataset}.bin"

    @property
    def log(self) -> Path:
        """The log, one JSON object a line."""
        return self.folder / f"{self.dataset}.txt"

    @property
    def command(self) -> Path:
        """The command line."""
        return self.folder / self.dataset / "params.sh"

    def write_weights(self, model: TunedViT) -> None:
        """Write the head and the adapters; quantized layers become records, others tensors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        records = bytearray()
        for name, layer in model.adapter_layers().items():
            if layer.bits < 32:
                records += encode(layer.weight.detach(), layer.bits)
            else:
                tensors[f"{name}.weight"] = layer.weight.detach().clone()
        for name, tensor in model.backbone.head.state_dict().items():
            tensors[f"head.{name}"] = tensor.detach().clone()
        torch.save(tensors, self.tensors)
        self.records.write_bytes(bytes(records))

    def write_settings(
        self, settings: RunSettings, command: Sequence[str], *, backbone: str, classes: int
    ) -> None:
        """Write the yaml, in place of those of earlier trainings, and the command line."""
        shutil.rmtree(self.folder / "configs", ignore_errors=True)
        config = self.folder / "configs" / settings.method
        config.mkdir(parents=True)
        fields = {
            "backbone": backbone,
            "bit": settings.bits,
            "dataset": self.dataset,
            "dim": settings.width,
            "method": settings.method,
            "num_class": classes,
            "scale": int(settings.scale) if settings.scale.is_integer() else settings.scale,
        }
        name = f"{self.dataset}-bit{settings.bits}-dim{settings.width}.yaml"
        (config / name).write_text(yaml.safe_dump(fields))
        self.command.parent.mkdir(exist_ok=True)
        self.command.write_text(shlex.join(command) + "\n")

    def read_settings(self) -> RunSettings:
        """Read the yaml, and the merge block from the command line.

        Raises:
            ValueError: The folder holds no yaml, or several.
        """
        found = sorted(self.folder.glob("configs/*/*.yaml"))
        if len(found) != 1:
            raise ValueError(f"{self.folder}: {len(found)} yaml files instead of one")
        fields = yaml.safe_load(found[0].read_text())
        words = shlex.split(self.command.read_text())
        return RunSettings(
            method=fields["method"],
            bits=fields["bit"],
            width=fields["dim"],
            scale=float(fields["scale"]),
            merge_block=int(words[words.index("--r_layer") + 1]),
        )

    def write_log(self, lines: Sequence[dict[str, float]]) -> None:
        """Write the log."""
        self.log.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def read_log(self) -> list[dict[str, float]]:
        """Read the log; its last line sums up the training."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def write_checksums(self) -> None:
        """Write `SHA256SUMS` over all files that decide what the run computes."""
        paths = [
            self.records,
            self.tensors,
            self.command,
            *sorted(self.folder.glob("configs/*/*.yaml")),
        ]
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(self.folder)}\n"
            for path in paths
        ]
        (self.folder / "SHA256SUMS").write_text("".join(lines))

    def read(self, backbone: VisionTransformer) -> TunedViT:
        """Rebuild a tuned model from its backbone and the files of the run, in eval mode.

        Raises:
            ValueError: A tensor is missing, unknown or misshapen, or bytes are left over.
        """
        settings = self.read_settings()
        model = TunedViT(
            backbone,
            method=settings.method,
            width=settings.width,
            bits=32,  # The decoded weights are used as they are.
            scale=settings.scale,
            merge_block=settings.merge_block,
            refinement_bits=32,
        )
        tensors = torch.load(self.tensors, weights_only=True)
        weights: dict[str, torch.Tensor] = {
            f"head.{name}": tensor for name, tensor in model.backbone.head.named_parameters()
        }
        weights |= self._decode_records(model, settings.bits)
        if weights.keys() != tensors.keys():
            difference = sorted(weights.keys() ^ tensors.keys())
            raise ValueError(f"{self.tensors}: missing or unknown tensors {difference}")
        for name, parameter in weights.items():
            if parameter.shape != tensors[name].shape:
                raise ValueError(f"{name}: {tuple(tensors[name].shape)} in {self.tensors}")
            with torch.no_grad():
                parameter.copy_(tensors[name])
        return model.eval()

    def _decode_records(self, model: TunedViT, bits_of_method: int) -> dict[str, torch.Tensor]:
        """Fill the quantized layers; return the weights of those that are tensors."""
        records = self.records.read_bytes()
        position = 0
        weights: dict[str, torch.Tensor] = {}
        for name, layer in model.adapter_layers().items():
            bits = 1 if ".refinement." in name else bits_of_method
            if bits == 32:
                weights[f"{name}.weight"] = layer.weight
                continue
            length = layer.weight.numel() * bits // 8 + 8
            record = records[position : position + length]
            if len(record) != length:
                raise ValueError(f"{self.records} ends inside {name}")
            with torch.no_grad():
                layer.weight.copy_(decode(record, tuple(layer.weight.shape), bits))
            position += length
        if position != len(records):
            raise ValueError(f"{self.records}: {len(records) - position} bytes left over")
        return weights
