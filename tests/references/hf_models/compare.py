"""Read what `write` has written, and compare every stage with the library's logits.

`python -m tests.references.hf_models.compare FOLDER` prints one line a model, and exits 7
where one differs by more than 1e-5 of the largest logit.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

import engines
import fpet_export
from engines.imaging.images import to_input
from engines.manifest import Head

LIMIT = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Largest difference of the answers, over the largest number that the library gives.

    Attributes:
        read: Of the model as it was read, in float64.
        graph: Of the exported graph, in float32.
    """

    read: float
    graph: float

    @property
    def is_small(self) -> bool:
        """Whether both are within the limit."""
        return max(self.read, self.graph) <= LIMIT


def difference(folder: Path, scratch: Path) -> Difference:
    """Return how far the model in a folder is from its `expected.npz`."""
    read = written = 0.0
    with np.load(folder / "expected.npz") as expected:
        pixels = expected["images"]
        wanted = {head: expected[head] for head in get_args(Head) if head in expected.files}
    for head, answers in wanted.items():
        image = pixels.shape[1:3] if folder.name.endswith("-asked") else None
        run = fpet_export.load(folder, head=head, image=image)
        frozen = run.fold().freeze(batch=len(pixels))
        graph = frozen.to_onnx(scratch / f"{folder.name}-{head}.onnx")
        with engines.open(graph) as engine:
            answered = engine.run({"images": to_input(pixels, frozen.preprocessing)})
        read = max(read, _relative(run.outputs(pixels).logits, answers))
        written = max(written, _relative(answered[head], answers))
    return Difference(read=read, graph=written)


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main() -> int:
    """Compare every folder that holds a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folders = sorted(path.parent for path in parser.parse_args().folder.glob("*/expected.npz"))
    large = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders:
            found = difference(folder, Path(scratch))
            large += not found.is_small
            line = f"{folder.name:32} read {found.read:.1e}  graph {found.graph:.1e}\n"
            sys.stdout.write(line)
    sys.stdout.write(f"{len(folders)} models, {large} of them beyond {LIMIT:g}\n")
    return 7 if large or not folders else 0


if __name__ == "__main__":
    sys.exit(main())
