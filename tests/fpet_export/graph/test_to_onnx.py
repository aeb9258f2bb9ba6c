"""The exported graph: ONNX Runtime against the float64 reference, and what the file holds."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from engines.errors import ExportError
from engines.onnx_graph.taps import with_outputs
from engines.parity.comparison import compare_stage
from engines.parity.gates import Gates
from engines.parity.rows import StageParity
from fpet_export.graph import to_onnx
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.graph.passes.keep_static import FORBIDDEN
from fpet_export.model import reference
from fpet_export.model.fold import fold
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, images_of, spec_of

pytestmark = pytest.mark.fresh_exports


@dataclasses.dataclass(frozen=True)
class Exported:
    """A tiny run as an ONNX file, with the module it came from."""

    path: Path
    module: FrozenVit
    operators: dict[str, int]
    spec: VitSpec
    model: Any


Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export a tiny run; the same request is exported once."""
    cache: dict[str, Exported] = {}

    def act(method: str = "lora", **request: Any) -> Exported:
        key = f"{method} {sorted(request.items())}"
        if key not in cache:
            cache[key] = fresh(tmp_path_factory.mktemp("onnx"), method, **request)
        return cache[key]

    return act


def fresh(
    folder: Path,
    method: str = "lora",
    *,
    shape: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    opset: int = 20,
    **options: Any,
) -> Exported:
    spec = spec_of(**(shape or {}))
    model = adapted(spec, checkpoint_of(spec, method, **(run or {})))
    folded, _ = fold(model)
    module = FrozenVit(folded, FreezeOptions(**options), MEAN, STD).eval()
    path = folder / "model.onnx"
    operators = to_onnx.to_onnx(module, path, opset=opset)
    return Exported(path, module, operators, spec, model)


def pixels(exported: Exported, images: np.ndarray) -> np.ndarray:
    kind = exported.module.options.input
    if kind == "float32":
        return images
    raw = np.rint(images * 255).astype(np.uint8)
    return np.ascontiguousarray(raw.transpose(0, 2, 3, 1) if kind == "uint8-nhwc" else raw)


def run_probed(exported: Exported, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the file with its match and sizes as additional outputs."""
    graph = onnx.load(str(exported.path)).graph
    known = {value.name for value in graph.value_info}
    probes = {name: name for name in ("match", "size") if name in known}
    with tempfile.TemporaryDirectory() as folder:
        probed = with_outputs(exported.path, probes, Path(folder))
        session = onnxruntime.InferenceSession(probed, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(
        zip(names, session.run(None, {to_onnx.INPUT: pixels(exported, images)}), strict=True)
    )


def judged(exported: Exported, count: int, **gates: Any) -> StageParity:
    images = images_of(exported.spec, count)
    expected = reference.run(exported.model, images, MEAN, STD)
    found = run_probed(exported, images)
    actual = dataclasses.replace(
        expected,
        logits=found["logits"],
        match=found.get("match"),
        size=found.get("size"),
        margin=None,
    )
    return compare_stage(
        "onnx", actual, expected, gates=Gates(**gates), patches=exported.spec.tokens
    )


PREFIXED = {
    "prefix": ("cls", "reg", "reg"),
    "position_covers_prefix": False,
    "layer_scale": True,
    "image": (12, 20),
}
CLIP = {"pre_norm": True, "patch_bias": False, "activation": "quick_gelu"}
DISTILLED = {"prefix": ("cls", "dist"), "pool": "class+dist"}
FAST: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"batch": 2}),
    ("adaptformer", {"batch": 2, "input": "uint8-nhwc", "attention_scale": "folded"}),
    ("lora", {"batch": 2, "ties": "reference", "last_block": "all-tokens", "opset": 18}),
    ("adaptformer", {"batch": 2, "run": {"merge_block": 2}}),
    ("adaptformer", {"batch": 2, "shape": {"prefix": (), "pool": "mean"}}),
    ("lora", {"batch": 2, "shape": PREFIXED, "input": "uint8-nchw"}),
    ("lora", {"batch": 2, "shape": CLIP, "run": {"merge_block": None}}),
]
SLOW: list[tuple[str, dict[str, Any]]] = [
    ("adaptformer", {"batch": 2}),
    ("lora", {"batch": 2, "attention_scale": "folded"}),
    ("lora", {"batch": 2, "last_block": "all-tokens"}),
    ("lora", {"batch": 2, "run": {"merge_block": 0}}),
    ("lora", {"batch": 2, "shape": DISTILLED}),
    ("lora", {"batch": 2, "shape": {"pool": "mean", "pool_norm": True}}),
    ("adaptformer", {"batch": (2, 8), "ties": "reference", "input": "uint8-nhwc"}),
    ("adaptformer", {"batch": 2, "opset": 18}),
    ("adaptformer", {"batch": 2, "shape": PREFIXED}),
]
OPTIONS = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize(("method", "options"), OPTIONS, ids=str)
def test_the_file_agrees_with_the_float64_reference(
    method: str, options: dict[str, Any], export: Export
) -> None:
    exported = export(method, **options)

    row = judged(exported, 2)

    assert row.failures == ()
    assert row.relative < 1e-5
    merges = bool(exported.model.merges)
    assert row.unexplained_flips == (0 if merges else None)
    graph = gs.import_onnx(onnx.load(str(exported.path)))
    assert not set(FORBIDDEN) & set(exported.operators)
    spec = exported.spec
    assert exported.operators["LayerNormalization"] == 2 * spec.depth + 1 + int(spec.pre_norm)
    assert to_onnx.tokens_after_blocks(graph, spec.depth) == exported.module.tokens
    last_reads_all = merges and exported.model.merger_of(spec.depth - 1) is not None
    if merges and not last_reads_all:
        assert row.tokens_kept == spec.tokens


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_dynamic_batch_takes_every_size_in_its_range(batch: int, export: Export) -> None:
    exported = export(batch=(1, 8))

    row = judged(exported, batch)

    assert row.failures == ()
    assert row.images == batch


def test_a_static_batch_is_static(export: Export) -> None:
    exported = export(batch=2)

    graph = onnx.load(str(exported.path)).graph

    for value in (*graph.input, *graph.output, *graph.value_info):
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name
    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert shape == [2, 3, 16, 16]
    assert [graph.input[0].name, graph.output[0].name] == ["images", "logits"]


def test_the_class_token_alone_leaves_the_last_block(export: Export) -> None:
    assert export(batch=2).module.tokens == (17, 9, 1)
    all_tokens = export(batch=2, ties="reference", last_block="all-tokens", opset=18)
    assert all_tokens.module.tokens == (17, 9, 9)


def test_the_weights_bear_the_names_of_their_modules(export: Export) -> None:
    exported = export("adaptformer", batch=2, input="uint8-nhwc", attention_scale="folded")
    graph = onnx.load(str(exported.path)).graph

    large = [w.name for w in graph.initializer if np.prod(w.dims) > 256]

    assert "blocks.1.merge.key.weight" in large
    assert "blocks.0.adapters.0.0.weight" in large
    assert all("." in name or name in ("position", "prefix_tokens") for name in large)


def test_the_file_says_nothing_about_the_machine_that_made_it(export: Export) -> None:
    content = export(batch=2).path.read_bytes()

    for trace in (b"/work", b"/home", b"/tmp", b"site-packages", b".py", b"Traceback"):
        assert trace not in content
    assert b"fpet-export" in content


def test_exporting_twice_gives_the_same_bytes(export: Export, tmp_path: Path) -> None:
    again = fresh(tmp_path, batch=2).path.read_bytes()

    assert again == export(batch=2).path.read_bytes()


def test_nothing_is_left_when_the_plan_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenVit, "_count_tokens", lambda self, *_: (17, 17, 1))

    with pytest.raises(ExportError, match="planned were") as caught:
        fresh(tmp_path)

    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_is_not_there_is_refused(export: Export) -> None:
    exported = export(batch=2, shape=CLIP, run={"merge_block": None})

    with pytest.raises(ExportError, match="no tensor 'match'"):
        with_outputs(exported.path, ["match"], exported.path.parent)


def test_an_unfolded_adapter_does_not_freeze() -> None:
    spec = spec_of()
    model = adapted(spec, checkpoint_of(spec, "adaptformer"))

    with pytest.raises(ExportError, match="fold the model first"):
        FrozenVit(model, FreezeOptions(), MEAN, STD)


def test_an_unfolded_lora_does_not_freeze() -> None:
    spec = spec_of()
    model = adapted(spec, checkpoint_of(spec, "lora"))

    with pytest.raises(ExportError, match="fold the model first"):
        FrozenVit(model, FreezeOptions(), MEAN, STD)


def test_the_wrong_match_would_be_seen(export: Export) -> None:
    exported = export(batch=2)
    other = adapted(exported.spec, checkpoint_of(exported.spec, "lora", merge_block=0))
    mixed = dataclasses.replace(exported, model=other)

    assert judged(mixed, 2).failures


def test_the_exporter_leaves_no_cache_of_pytorchs_compiler(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from fpet_export.graph import to_onnx\n"
        "from tests.fpet_export.graph.test_to_onnx import fresh\n"
        f"fresh(Path({str(tmp_path)!r}) / 'out')\n"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)

    subprocess.run([sys.executable, "-c", program], check=True, env=environment)

    assert (tmp_path / "out" / "model.onnx").is_file()
    assert not list((tmp_path / "temporary").glob("*inductor*"))
