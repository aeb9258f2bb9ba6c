"""Write what `classify` must know of a plan, from its manifest: python facts.py PLAN FACTS.

The manifest and every byte of the plan are checked first. Needs numpy and fpet-export, no GPU.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from engines.errors import FpetError, InputError
from engines.manifest import Manifest, TensorSpec, read_manifest


def facts(plan: Path) -> str:
    """Return the facts about a plan, one a line.

    Raises:
        TrustError: The plan is not what its manifest says.
        InputError: `classify` cannot run it.
    """
    manifest = read_manifest(plan)
    return "".join(f"{line}\n" for line in _lines(plan, manifest))


def _lines(plan: Path, manifest: Manifest) -> Iterator[str]:
    preprocessing = manifest.preprocessing
    if preprocessing is None or manifest.head != "logits" or len(manifest.inputs) != 1:
        raise InputError(
            "this is no plan of one classifier with a known preprocessing",
            where=str(plan),
            fix="build the graph of one run: fpet-export export RUN, then fpet-export build",
        )
    (images,), logits = manifest.inputs, manifest.outputs[0]
    wanted = preprocessing.dtype, "float32"
    if (images.dtype, logits.dtype) != wanted or len(manifest.outputs) != 1:
        raise InputError(
            f"its types are {images.dtype} and {logits.dtype}, wanted {' and '.join(wanted)}, and "
            f"it has {len(manifest.outputs)} outputs, wanted 1",
            where=str(plan),
            fix="type the graph with --io fp32, and build it again",
        )
    content, (height, width) = plan.read_bytes(), preprocessing.size
    classes = logits.shape[-1]
    assert isinstance(classes, int)
    batch = images.shape[0]
    if isinstance(batch, str):
        batch = 1 if manifest.batch_range is None else manifest.batch_range[0]
    yield f"plan {len(content)} {zlib.adler32(content)}"
    yield f"picture {height} {width} {preprocessing.layout}"
    yield f"batch {batch}"
    if not preprocessing.in_graph:
        yield f"mean {' '.join(map(repr, preprocessing.mean))}"
        yield f"std {' '.join(map(repr, preprocessing.std))}"
    yield f"input {_tensor(images)}"
    yield f"output {_tensor(logits)}"
    for name in manifest.labels or map(str, range(classes)):
        yield f"label {' '.join(name.split())}"


def _tensor(spec: TensorSpec) -> str:
    extents = (str(one) if isinstance(one, int) else "-1" for one in spec.shape)
    return f"{spec.name} {spec.dtype} {' '.join(extents)}"


if __name__ == "__main__":
    try:
        Path(sys.argv[2]).write_text(facts(Path(sys.argv[1])), "utf-8")
    except FpetError as error:
        sys.exit(f"error: {error}")
