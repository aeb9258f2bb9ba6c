"""Every artefact is read for its hash once in a process, whichever verb runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

import engines
from engines import storage
from engines.errors import TrustError
from tests.fpet_export.command_line import Done, Exported, call, export, write_shard


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file was read for its hash, by name; small ones count as large ones do."""
    found: Counter[str] = Counter()
    real = storage._digest

    def digest(file: BinaryIO) -> str:
        found[Path(file.name).name] += 1
        return real(file)

    monkeypatch.setattr(storage, "_REMEMBERED_BYTES", 0)
    monkeypatch.setattr(storage, "_known", {})
    monkeypatch.setattr(storage, "_digest", digest)
    return found


@pytest.mark.fresh_exports
def test_an_export_hashes_every_file_once(hashed: Counter[str], tmp_path: Path) -> None:
    made = export(tmp_path)
    assert made.done.code == 0, made.done.err
    assert "model.onnx" in hashed
    assert set(hashed.values()) == {1}


def _quantize(graph: Path, folder: Path) -> Done:
    shard = write_shard(folder / "images.npz", count=8)
    words = ("--precision", "int8", "--calibration", shard, "-o", folder / "model.int8.onnx")
    return call("quantize", graph, *words)


def _build(graph: Path, folder: Path) -> Done:
    return call("build", graph, "-o", folder / "engine.onnx")


@pytest.mark.parametrize("verb", [_quantize, _build])
def test_a_verb_hashes_every_artefact_once(
    verb: Callable[[Path, Path], Done], exported: Exported, hashed: Counter[str], tmp_path: Path
) -> None:
    done = verb(exported.graph, tmp_path)
    assert done.code == 0, done.err
    assert "model.onnx" in hashed
    assert set(hashed.values()) == {1}


def test_opening_hashes_once_and_sees_what_changed_since(
    engine: Path, hashed: Counter[str], tmp_path: Path
) -> None:
    mine = tmp_path / engine.name
    for path in (engine, engine.with_name(f"{engine.stem}.manifest.json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for _ in range(2):
        with engines.open(mine):
            pass
    assert hashed == {mine.name: 1}

    with mine.open("rb+") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(TrustError, match="SHA-256"):
        engines.open(mine)
