"""The ViT-B/16 that our own benchmarks measure: frozen, plain, and as a library writes it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.conditions.failures import as_engine_error
from engines import registry
from engines.engine import load_target
from engines.errors import MissingDependencyError
from engines.precisions import BF16, FP16

RUN = "random:vit_base_patch16_224:0"
IMAGE = (3, 224, 224)
MERGE_BLOCK = 6
_PRECISION_OF = {"float16": FP16, "bfloat16": BF16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One form of the network.

    Attributes:
        name: "frozen", "plain" or "library".
        module: Makes the module of a type ("float32", "float16") for a batch size.
        onnx: Writes its graph for a batch size, a target and a type into a folder, unless it is
            there already; None when it has none.
        note: To record.
    """

    name: str
    module: Callable[[int, str], Any]
    onnx: Callable[[int, str, str, Path], Path] | None
    note: str


def freeze(
    *, merge_block: int | None, batch: int, target: str, attention: str = "primitive"
) -> Any:
    """Return the toolkit's frozen ViT-B/16 with random weights, tuned with LoRA and folded.

    Args:
        merge_block: Block after whose attention tokens merge; None for all tokens.
        batch: Images of one run.
        target: What it is written for.
        attention: "primitive" for a graph, "fused" to run in torch.
    """
    run = registry.import_or_explain("fpet_export").load(
        RUN,
        method="lora",
        rank=8,
        bit=32,
        merge_block="none" if merge_block is None else merge_block,
    )
    return run.fold().freeze(batch=batch, target=target, attention=attention)


def exported(name: str, *, merge_block: int | None) -> Subject:
    """Return a network as this toolkit exports it, with random weights.

    Args:
        name: For tables.
        merge_block: Block after whose attention tokens merge; None for all tokens.
    """

    def frozen(batch: int, target: str, attention: str) -> Any:
        with as_engine_error(name, fix="run the tests of fpet_export"):
            return freeze(merge_block=merge_block, batch=batch, target=target, attention=attention)

    def module(batch: int, dtype: str) -> Any:
        found = frozen(batch, "cuda", "fused")
        if dtype == "float32":
            return found.module
        torch = registry.import_or_explain("torch")
        with as_engine_error(name, fix="run the tests of fpet_export"):
            # The match stays in float32: half precision cannot tell near-ties apart.
            return found.typed(getattr(torch, dtype))

    def onnx(batch: int, target: str, dtype: str, folder: Path) -> Path:
        path = folder / f"{name}.b{batch}.{target}.{dtype}.onnx"
        if not path.exists():
            found = frozen(batch, target, "primitive")
            with as_engine_error(name, fix="run the tests of fpet_export"):
                _write(found, path, target, dtype)
        return path

    where = f"tokens merge after block {merge_block}" if merge_block is not None else "all tokens"
    return Subject(name=name, module=module, onnx=onnx, note=f"{RUN}, {where}")


def library() -> Subject:
    """Return the ViT-B/16 of timm, else of torchvision: a peer that we did not write.

    Its attention is torch's fused one.
    """

    def module(batch: int, dtype: str) -> Any:
        torch = registry.import_or_explain("torch")
        torch.manual_seed(0)
        return _library_vit().to(getattr(torch, dtype)).eval()

    return Subject(name="library", module=module, onnx=None, note="ViT-B/16 of timm or torchvision")


def default_subjects() -> tuple[Subject, ...]:
    """Return what is measured, the plain ones first."""
    return (
        library(),
        exported("plain", merge_block=None),
        exported("frozen", merge_block=MERGE_BLOCK),
    )


def _write(frozen: Any, path: Path, target: str, dtype: str) -> None:
    """Write a frozen network as a graph of a type, with its match in float32."""
    if dtype == "float32":
        frozen.to_onnx(path)
        return
    recipes: Any = registry.import_or_explain("calibration.recipe")
    chosen: Any = registry.import_or_explain("calibration.graph_typing")
    files: Any = registry.import_or_explain("engines.onnx_graph.files")
    recipe = chosen.recipe_for(load_target(target), _PRECISION_OF[dtype])
    with tempfile.TemporaryDirectory(prefix="fpet-subject-") as folder:
        graph = frozen.to_onnx(Path(folder) / "float32.onnx")
        files.write_graph(recipes.typed_graph(graph, recipe), path)


def _library_vit() -> Any:
    try:
        timm = registry.import_or_explain("timm")
    except MissingDependencyError:
        return registry.import_or_explain("torchvision").models.vit_b_16()
    return timm.create_model("vit_base_patch16_224")
