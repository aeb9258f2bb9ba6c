"""Runs the command line inside the test process, and exports a tiny run once a session."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fpet_export import stages
from fpet_export.cli import dispatch
from fpet_export.graph import freeze
from fpet_export.model.backbones.random_weights import draw
from tests.fpet_export.authors_run import AuthorsRun, write_run
from tests.fpet_export.tiny import CLASSES, SIDE, timm_config

LABELS = ("ant", "bee", "cat", "dog", "elk")


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """The one JSON document on stdout; anything around it fails."""
        return json.loads(self.out)

    def error(self) -> dict[str, Any]:
        """The error of a `--json` command."""
        document = self.document()
        assert list(document) == ["error"]
        error: dict[str, Any] = document["error"]
        assert set(error) == {"class", "exit_code", "what", "where", "fix"}
        assert error["exit_code"] == self.code
        assert all(error[key] for key in ("what", "where", "fix"))
        return error


def call(*words: object) -> Done:
    """Run one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = dispatch.main([str(word) for word in words])
        except SystemExit as end:  # --help and --version
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A tiny run on disk, and what `export` made of it."""

    folder: Path
    run: AuthorsRun
    done: Done

    @property
    def backbone(self) -> Path:
        return self.folder / "backbone.safetensors"

    @property
    def words(self) -> tuple[str, ...]:
        return self.run.text, "--backbone", str(self.backbone)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def graph(self) -> Path:
        return self.out / "model.onnx"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.txt"

    def copy(self, folder: Path) -> Path:
        """Copy the graph and its side-car, for a test that changes them."""
        shutil.copytree(self.out, folder, dirs_exist_ok=True)
        return folder / "model.onnx"


def write_files(folder: Path, **run: Any) -> AuthorsRun:
    """Write a run and its backbone, with timm's config.json beside it."""
    written = write_run(folder / "run", **run)
    save_file(draw(written.spec, 0), folder / "backbone.safetensors")
    (folder / "config.json").write_text(json.dumps(timm_config(written.spec)))
    return written


def export(folder: Path) -> Exported:
    run = write_files(folder)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    words = (run.text, "--backbone", folder / "backbone.safetensors", "-o", folder / "out")
    done = call("export", *words, "--labels", folder / "labels.txt", "--json")
    return Exported(folder=folder, run=run, done=done)


def pixels_of(count: int, *, side: int = SIDE, seed: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_images(folder: Path, pixels: np.ndarray) -> list[Path]:
    """Write pixels as lossless files named 0.png, 1.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def write_shard(path: Path, count: int = 6, *, classes: int = CLASSES, **arrays: Any) -> Path:
    """Write an .npz of pixels with labels that count through the classes."""
    content = {"images": pixels_of(count), "labels": np.arange(count) % classes} | arrays
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


def perturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the frozen module come out with one weight changed."""

    class Drifting(freeze.FrozenVit):
        def eval(self) -> Drifting:
            with torch.no_grad():
                parameter = next(p for name, p in self.named_parameters() if "fc1" in name)
                parameter.view(-1)[0] += 5.0
            return super().eval()

    monkeypatch.setattr(stages, "FrozenVit", Drifting)
