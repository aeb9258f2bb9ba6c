"""Writes the files of a run as the FPET authors' training does, from the format's description.

Only numpy and the standard library pack the records here, so that reading them back proves
something; the code books come from `qlinear`, which has its own golden values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path

import numpy as np
import torch
import yaml

from fpet_export.model import qlinear
from fpet_export.model.checkpoints import Checkpoint
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import checkpoint_of, spec_of

NAME = "cifar"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuthorsRun:
    """A run on disk, and what was written into it."""

    folder: Path
    name: str
    spec: VitSpec
    written: Checkpoint

    @property
    def text(self) -> str:
        return str(self.folder / self.name)

    @property
    def pth(self) -> Path:
        return self.folder / f"{self.name}.pth"

    @property
    def bin(self) -> Path:
        return self.folder / f"{self.name}.bin"

    @property
    def params(self) -> Path:
        return self.folder / self.name / "params.sh"

    @property
    def config(self) -> Path:
        w = self.written
        return self.folder / f"configs/{w.method}/{self.name}-bit{w.bit}-dim{w.dim}.yaml"

    def write_checksums(self) -> None:
        files = [p for p in (self.pth, self.bin, self.params, self.config) if p.is_file()]
        lines = [
            f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(self.folder)}\n"
            for p in files
        ]
        (self.folder / "SHA256SUMS").write_text("".join(lines))

    def rewrite_config(self, **changes: object) -> None:
        fields = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump(fields | changes))

    def rewrite_pth(self, tensors: dict[str, torch.Tensor]) -> None:
        torch.save(tensors, self.pth)


def record(
    shape: tuple[int, int], bits: int, generator: np.random.Generator
) -> tuple[bytes, torch.Tensor]:
    """Draw codes and statistics; pack them (first weight in the lowest bits) and decode them."""
    codes = generator.integers(0, 2**bits, shape)
    if bits == 8:  # the middle of the 8-bit book is zero: take codes that say something
        codes = np.where(codes % 2, codes % 60, 255 - codes % 60)
    mean, std = np.float32(generator.normal(0, 0.02)), np.float32(generator.uniform(0.05, 0.2))
    flat = codes.ravel().tolist()
    packed = bytearray()
    for start in range(0, len(flat), 8 // bits):
        packed.append(sum(c << (bits * i) for i, c in enumerate(flat[start : start + 8 // bits])))
    book = qlinear.code_book(bits).numpy()
    weight = (book[codes] * std + mean).astype(np.float32)
    return bytes(packed) + struct.pack("<ff", mean, std), torch.from_numpy(weight)


def _low_bit(checkpoint: Checkpoint, seed: int) -> tuple[bytes, Checkpoint]:
    """Replace the low-bit weights by drawn ones; return their stream in traversal order."""
    generator = np.random.default_rng(seed)
    stream = b""
    factors: list[dict[str, torch.Tensor]] = []
    refinement = None
    for block, dense in enumerate(checkpoint.factors):
        factors.append(dict(dense))
        if checkpoint.bit != 32:
            for name, tensor in dense.items():
                rows, columns = tensor.shape
                piece, factors[-1][name] = record((rows, columns), checkpoint.bit or 32, generator)
                stream += piece
        if block == checkpoint.merge_block and checkpoint.refinement is not None:
            head_width = len(checkpoint.refinement[1])
            down, down_weight = record((32, head_width), 1, generator)
            up, up_weight = record((head_width, 32), 1, generator)
            refinement = down_weight, up_weight
            stream += down + up
    return stream, dataclasses.replace(checkpoint, factors=tuple(factors), refinement=refinement)


def write_run(
    folder: Path,
    method: str = "lora",
    *,
    bit: int = 1,
    dim: int = 8,
    merge_block: int | None = 1,
    scale: float = 0.5,
    params: bool = True,
    config: bool = True,
    name: str = NAME,
    spec: VitSpec | None = None,
    seed: int = 1,
) -> AuthorsRun:
    """Write NAME.pth, NAME.bin, the YAML and params.sh of one run."""
    spec = spec or spec_of()
    written = checkpoint_of(
        spec, method, bit=bit, dim=dim, scale=scale, merge_block=merge_block, seed=seed
    )
    stream, written = _low_bit(written, seed)
    run = AuthorsRun(folder=folder, name=name, spec=spec, written=written)
    run.params.parent.mkdir(parents=True, exist_ok=True)
    tensors = dict(written.head)
    if bit == 32:
        for block, factors in enumerate(written.factors):
            tensors |= {f"blocks.{block}.{key}.weight": t for key, t in factors.items()}
    run.rewrite_pth(tensors)
    if stream:
        run.bin.write_bytes(stream)
    if params:
        layer = 0 if merge_block is None else merge_block
        run.params.write_text(
            f"python train.py --dataset {name} --method {method} --bit {bit} --dim {dim} "
            f"--scale {scale} --r_layer {layer} --model_path {folder.name}\n"
        )
    if config:
        run.config.parent.mkdir(parents=True)
        fields = {
            "backbone": "vit_test_patch4_16",
            "bit": bit,
            "dataset": name,
            "dim": dim,
            "method": method,
            "num_class": len(written.head["head.weight"]),
            "scale": scale,
        }
        run.config.write_text(yaml.safe_dump(fields))
    return run
