"""Damaged, swapped and mislabelled files of a run: a sentence, or exactly the run that was saved.

What the format cannot detect. A `.bin` has neither header nor checksum: a flipped bit in a packed
code, or in a mean or deviation that stays plausible, is another model. So is a `.pth` (of a low-bit
run: the head alone) or a `.bin` of the right shape taken whole from another run. `params.sh` is the
only witness of a 32-bit run's merge block. Those cases are accepted without `SHA256SUMS` and
refused with it; in every other case a run that is accepted must decode to the tensors that were
saved.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import FpetError, TrustError
from fpet_export.model import checkpoints
from fpet_export.model.backbones import BackboneOptions
from fpet_export.model.backbones import read as read_backbone
from fpet_export.model.checkpoints import Checkpoint
from tests.fpet_export.authors_run import AuthorsRun, write_run

FILES = ("pth", "bin", "params", "config", "sums")
KINDS = ("truncate", "flip", "flip many", "overwrite", "append", "empty", "delete", "swap", "cross")
SETTINGS = (
    {"method": "lora", "bit": 1, "dim": 8},
    {"method": "adaptformer", "bit": 4, "dim": 8},
    {"method": "lora", "bit": 32, "dim": 4},
    {"method": "adaptformer", "bit": 8, "dim": 4, "merge_block": None},
)


@dataclasses.dataclass(frozen=True)
class Fuzzed:
    """One case: what was done to which file of which run."""

    run: int
    file: str
    kind: str
    checksums: bool

    def cannot_be_noticed(self, before: bytes, after: bytes | None) -> bool:
        """Whether the format has no means to tell; see the module's docstring."""
        if self.checksums or after is None or self.kind in ("truncate", "append", "empty"):
            return False
        if self.file == "bin":
            return len(after) == len(before)
        if self.file == "pth":
            return self.kind in ("swap", "cross")
        return self.file == "params" and SETTINGS[self.run]["bit"] == 32


class Arena:
    """Intact runs with a twin each (same settings, other weights), rewritten case by case."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.twins, self.intact = [], [], []
        for index, settings in enumerate(SETTINGS):
            run = write_run(folder / f"run{index}", **settings)  # type: ignore[arg-type]
            twin = write_run(folder / f"twin{index}", seed=9, **settings)  # type: ignore[arg-type]
            for each in (run, twin):
                each.write_checksums()
            self.runs.append(run)
            self.twins.append(twin)
            self.intact.append(checkpoints.read(run.text).decode(run.spec))

    def try_case(self, case: Fuzzed, generator: np.random.Generator) -> str:
        """Damage, read, restore; return what happened, or raise AssertionError."""
        run = self.runs[case.run]
        saved = {path: path.read_bytes() for name in FILES if (path := place(run, name)).is_file()}
        target = place(run, case.file)
        before = saved.get(target, b"")
        after = self.damaged(case, before, generator)
        try:
            if not case.checksums:
                place(run, "sums").unlink()
            if after is None:
                target.unlink(missing_ok=True)
            elif case.checksums or case.file != "sums":
                target.write_bytes(after)
            return self.judge(case, before, after)
        finally:
            for path, content in saved.items():
                path.write_bytes(content)
            if target not in saved:
                target.unlink(missing_ok=True)

    def damaged(self, case: Fuzzed, before: bytes, generator: np.random.Generator) -> bytes | None:
        if case.kind == "delete":
            return None
        if case.kind == "empty":
            return b""
        if case.kind == "append":
            return before + generator.bytes(int(generator.integers(1, 64)))
        if case.kind == "truncate":
            return before[: int(generator.integers(0, max(len(before), 1)))]
        if case.kind == "swap":
            other = place(self.twins[case.run], case.file)
            return other.read_bytes() if other.is_file() else b"x"
        if case.kind == "cross":
            others = [index for index in range(len(SETTINGS)) if index != case.run]
            other = place(self.runs[int(generator.choice(others))], case.file)
            return other.read_bytes() if other.is_file() else b"x"
        content = bytearray(before or b"\0")
        at = int(generator.integers(len(content)))
        if case.kind == "overwrite":
            length = int(generator.integers(1, 33))
            content[at : at + length] = generator.bytes(len(content[at : at + length]))
        for _ in range({"flip": 1, "flip many": 8}.get(case.kind, 0)):
            content[at] ^= 1 << int(generator.integers(8))
            at = int(generator.integers(len(content)))
        return bytes(content)

    def judge(self, case: Fuzzed, before: bytes, after: bytes | None) -> str:
        run = self.runs[case.run]
        try:
            found = checkpoints.read(run.text).decode(run.spec)
        except FpetError as error:
            assert error.what
            assert error.fix
            assert error.exit_code in (2, 3, 10), error
            return "refused"
        if same(found, self.intact[case.run]):
            return "the same"
        assert case.cannot_be_noticed(before, after), f"{case} gave another model silently"
        return "unnoticed"


def place(run: AuthorsRun, name: str) -> Path:
    path: Path = run.folder / "SHA256SUMS" if name == "sums" else getattr(run, name)
    return path


def same(one: Checkpoint, two: Checkpoint) -> bool:
    fields = ("method", "bit", "dim", "scale", "merge_block")
    if any(getattr(one, field) != getattr(two, field) for field in fields):
        return False
    ours, theirs = tensors(one), tensors(two)
    return list(ours) == list(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    found = dict(sorted(checkpoint.head.items()))
    for block, factors in enumerate(checkpoint.factors):
        found |= {f"{block}.{name}": tensor for name, tensor in factors.items()}
    for name, tensor in zip(("down", "up"), checkpoint.refinement or (), strict=False):
        found[name] = tensor
    return found


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    return Arena(tmp_path_factory.mktemp("fuzz"))


def fuzz(arena: Arena, cases: int, seed: int) -> dict[str, int]:
    generator = np.random.default_rng(seed)
    outcomes = {"refused": 0, "the same": 0, "unnoticed": 0}
    for _ in range(cases):
        case = Fuzzed(
            run=int(generator.integers(len(SETTINGS))),
            file=str(generator.choice(FILES, p=(0.35, 0.25, 0.15, 0.15, 0.1))),
            kind=str(generator.choice(KINDS)),
            checksums=bool(generator.integers(2)),
        )
        outcomes[arena.try_case(case, generator)] += 1
    return outcomes


def test_200_damaged_runs_are_refused_or_read_as_they_were(arena: Arena) -> None:
    outcomes = fuzz(arena, 200, seed=0)

    assert outcomes["refused"] > 80  # the damage is real


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_2400_damaged_runs_are_refused_or_read_as_they_were(arena: Arena, seed: int) -> None:
    outcomes = fuzz(arena, 600, seed=seed)

    assert outcomes["refused"] > 240


@pytest.mark.parametrize("file", ["pth", "bin"])
@pytest.mark.parametrize("kind", ["flip", "overwrite", "swap"])
def test_with_checksums_nothing_goes_unnoticed(arena: Arena, file: str, kind: str) -> None:
    generator = np.random.default_rng(7)
    for run in range(3):
        case = Fuzzed(run=run, file=file, kind=kind, checksums=True)
        assert arena.try_case(case, generator) == "refused"


def test_a_flipped_code_without_checksums_is_the_stated_limit(arena: Arena) -> None:
    run = arena.runs[0]
    intact = run.bin.read_bytes()
    sums = place(run, "sums").read_bytes()
    try:
        run.bin.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
        with pytest.raises(TrustError):
            checkpoints.read(run.text)
        place(run, "sums").unlink()
        found = checkpoints.read(run.text).decode(run.spec)
    finally:
        run.bin.write_bytes(intact)
        place(run, "sums").write_bytes(sums)

    assert not same(found, arena.intact[0])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_pth_cut_anywhere_is_refused(arena: Arena, share: float) -> None:
    run = arena.runs[2]
    intact, sums = run.pth.read_bytes(), place(run, "sums").read_bytes()
    try:
        place(run, "sums").unlink()
        run.pth.write_bytes(intact[: int(share * len(intact))])
        with pytest.raises(FpetError) as caught:
            checkpoints.read(run.text)
        assert caught.value.exit_code == 3
    finally:
        run.pth.write_bytes(intact)
        place(run, "sums").write_bytes(sums)


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
def test_a_damaged_backbone_never_gives_a_traceback(suffix: str, tmp_path: Path) -> None:
    """A `.safetensors` has no checksum of its data, so a flip there may go unnoticed."""
    from safetensors.torch import save_file

    from fpet_export.model.backbones.random_weights import draw
    from tests.fpet_export.tiny import spec_of

    path = tmp_path / f"backbone{suffix}"
    weights = draw(spec_of(depth=1, hidden=64), 0)
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in weights.items()}
        np.savez(path, **arrays)
    elif suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    intact = path.read_bytes()
    generator = np.random.default_rng(3)
    for _ in range(40):
        content = bytearray(intact)
        for _ in range(int(generator.integers(1, 6))):
            at = int(generator.choice([generator.integers(len(content)), generator.integers(600)]))
            content[at % len(content)] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(content[: int(generator.integers(1, 2 * len(content)))]))
        try:
            read_backbone(str(path), BackboneOptions(heads=2))
        except FpetError as error:
            assert error.exit_code == 3
