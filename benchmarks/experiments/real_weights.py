"""INT8 and FP8 on pretrained weights and real pictures, against the float32 graph.

`python -m benchmarks.experiments.real_weights RUN -o FILE.json`, with a run tuned on what
`benchmarks.experiments.pretrained` leaves. Ranges come from the training half, every figure from
the test half, all of it through the command line as a user types it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions.environment import read_environment
from benchmarks.experiments.pretrained import OUTPUT
from benchmarks.experiments.quantization import tool
from benchmarks.measurement_file import to_text
from engines import storage
from engines.errors import FpetError

TARGET = "rtx-4090@rtx"
FORMS: dict[str, tuple[str, ...]] = {
    "int8": ("--precision", "int8"),
    "int8, nothing equalised": ("--precision", "int8", "--no-equalise"),
    "fp8": ("--precision", "fp8"),
}


def rows(run: str, folder: Path, *, images: int, limit: int) -> list[dict[str, Any]]:
    """Quantize a run in every form and return what its check came to.

    Args:
        run: The run to export.
        folder: For graphs, which are large.
        images: Calibration images, of the training half.
        limit: Pictures of the test half that are checked on, at most.

    Raises:
        EngineError: A command failed.
    """
    backbone = str(OUTPUT / "backbone/model.safetensors")
    words = ["export", run, "--backbone", backbone, "--target", TARGET, "--limit", "1"]
    tool(*words, "-o", str(folder / "graph"))
    data = ["--calibration", str(OUTPUT / "pictures/train"), "--images", str(images)]
    data += ["--data", str(OUTPUT / "pictures/test"), "--limit", str(limit)]
    found = []
    for number, (name, form) in enumerate(FORMS.items()):
        out = str(folder / f"{number}.onnx")
        made = tool("quantize", str(folder / "graph/model.onnx"), *form, *data, "-o", out)
        row = next(row for row in made["parity"]["rows"] if row["stage"] == form[1])
        quality = made["manifest"]["quantization"]["quality"]
        found.append({"form": name, "reference_accuracy": quality["reference_accuracy"], **row})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the file and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.real_weights",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--images", type=int, default=32, help="calibration pictures")
    parser.add_argument("--limit", type=int, default=201, help="test pictures")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    options = parser.parse_args(arguments)
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        with tempfile.TemporaryDirectory() as folder:
            found = rows(options.run, Path(folder), images=options.images, limit=options.limit)
        document = {
            "schema": 1,
            "kind": "real-weights",
            "calibration_images": options.images,
            "rows": found,
            "environment": dataclasses.asdict(read_environment()),
        }
        storage.write_text(options.output, to_text(document))
        sys.stdout.write(f"{options.output}\n")
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
