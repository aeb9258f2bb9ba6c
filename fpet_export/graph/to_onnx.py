"""Frozen module to ONNX: export, clean up, check against what was planned, write.

The exporter is PyTorch's `torch.export` based one, which sees one block of each kind
(`fpet_export.graph.repeated_blocks`). The graph of all blocks is simplified, renamed (a node is
called after its module), cleaned by `fpet_export.graph.passes`, and compared with the plan: one
LayerNormalization a norm, and after each block exactly the tokens that were computed beforehand.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import onnx
import onnx_graphsurgeon as gs
import onnx_ir
import torch

from engines import storage
from engines.backends._aoti.cache import inductor_cache
from engines.errors import ExportError, UsageError
from engines.onnx_graph.files import require_valid
from fpet_export.garbage import collected_later
from fpet_export.graph import large_weights, passes, repeated_blocks
from fpet_export.graph.freeze import FrozenVit, input_shape
from fpet_export.graph.options import require_opset
from fpet_export.graph.simplify import simplify

INPUT = "images"

_OLDEST_TRACED = 18
"""What PyTorch's exporter writes natively; its conversion below that loses the nodes' names."""


class LastPass(Protocol):
    """What is done to a finished graph before it is written."""

    def apply(self, graph: passes.Graph, weights: large_weights.Weights) -> None:
        """Change the graph in place; its large constants are in `weights` alone."""


@collected_later()
def to_onnx(
    module: FrozenVit, path: Path, *, opset: int, last: LastPass | None = None
) -> dict[str, int]:
    """Export `module` to `path`, atomically; weights beyond 2 GiB go into `<path>.data`.

    Args:
        module: Frozen, in eval mode.
        path: The `.onnx` file to write.
        opset: ONNX opset; see `fpet_export.graph.options`.
        last: Changes the graph once it is what was planned.

    Returns:
        The histogram of the graph's operators.

    Raises:
        UsageError: This toolkit does not write that opset, or the module was frozen with fused
            attention.
        ExportError: The graph is not what was planned.
    """
    require_opset(opset)
    if module.options.attention != "primitive":
        raise UsageError(
            "the module was frozen with fused attention; graphs are written with the primitive "
            "form, which runtimes fuse themselves",
            where="freeze",
            fix='freeze with attention="primitive"',
        )
    traced = max(opset, _OLDEST_TRACED)
    whole = trace(module, opset=traced)
    model, weights = large_weights.split(whole, smallest=passes.SMALL + 1)
    name_nodes(model)
    _own_opset(model).version = opset  # the passes write the nodes accordingly
    graph = gs.import_onnx(model)
    graph.name = "frozen_vit"
    graph.producer_name, graph.producer_version = "fpet-export", ""
    passes.run(graph)
    check_plan(graph, module)
    if last is not None:
        last.apply(graph, weights)
    operators = Counter(node.op for node in graph.nodes)
    finished = gs.export_onnx(graph)
    # The oldest format that knows the opset: a runtime refuses a newer one than its own.
    finished.ir_version = onnx.helper.find_min_ir_version_for(finished.opset_import)
    with storage.atomic_path(path) as temporary:
        large_weights.save(finished, temporary, weights)
        del finished
        require_valid(temporary, fix="report this with the versions of torch, onnx and onnxscript")
    return dict(sorted(operators.items()))


def trace(module: FrozenVit, *, opset: int) -> onnx_ir.Model:
    """Run PyTorch's exporter on one block of each kind of a frozen module, and simplify the whole.

    Args:
        module: Frozen, in eval mode.
        opset: ONNX opset, 18 or newer.

    Returns:
        The graph of all blocks, with the module's own weights.

    Raises:
        ExportError: The exporter failed, or wrote another opset.
    """
    batch = module.options.batch
    dynamic = isinstance(batch, tuple)
    traced = repeated_blocks.traced_blocks(module)
    images = example_input(module, max(2, batch[0]) if isinstance(batch, tuple) else batch)
    shapes: Any = None
    if isinstance(batch, tuple):
        shapes = ({0: torch.export.Dim("batch", min=batch[0], max=batch[1])},)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fpet-export-") as folder,
            quiet_exporter(),
            inductor_cache(Path(folder)),
        ):
            program = torch.onnx.export(
                repeated_blocks.shortened(module, traced),
                (images,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[module.spec.head],
                dynamic_shapes=shapes,
                verbose=False,
                optimize=False,
            )
    # The exporter wraps every failure of every layer below it in classes of its own.
    except Exception as error:
        raise ExportError(
            f"PyTorch could not export the module: {str(error).strip().splitlines()[0][:200]}",
            where=f"torch {torch.__version__}, opset {opset}, "
            f"{'dynamic' if dynamic else 'static'} batch",
            fix="report this with the run and the versions of torch, onnx and onnxscript",
        ) from error
    assert program is not None
    written = program.model.opset_imports.get("")
    if written != opset:  # a conversion that fails leaves the exporter's own opset, with a warning
        raise ExportError(
            f"PyTorch wrote opset {written} instead of {opset}",
            where=f"torch {torch.__version__}",
            fix=f"export with --opset {written}, or update torch and onnxscript",
        )
    with quiet_exporter():
        whole = repeated_blocks.repeated(program.model, module, traced)
        simplify(whole)
    return whole


def _own_opset(model: onnx.ModelProto) -> onnx.OperatorSetIdProto:
    own: onnx.OperatorSetIdProto = next(
        entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")
    )
    return own


def example_input(module: FrozenVit, batch: int) -> torch.Tensor:
    """Return an input of the right shape and type, on the device of the weights."""
    dtype = torch.float32 if module.options.input == "float32" else torch.uint8
    shape = input_shape(module.spec, module.options, batch)
    return torch.zeros(shape, dtype=dtype, device=module.prefix_tokens.device)


def name_nodes(model: onnx.ModelProto) -> None:
    """Name every node `<module path>/<operator>`, in place, from the exporter's metadata.

    A plan's kernels list the ONNX names that they fuse, so a missing fusion can be placed.
    """
    used: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = next(
            (m.value for m in node.metadata_props if m.key == "pkg.torch.onnx.name_scopes"), "['']"
        )
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        name = f"{modules[-1].replace('.', '/') if modules else 'graph'}/{node.op_type}"
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"


def check_plan(graph: passes.Graph, module: FrozenVit) -> None:
    """Compare the graph with what was computed in Python before the export.

    Raises:
        ExportError: The number of norms, or the tokens after a block, differ.
    """
    spec = module.spec
    norms = sum(node.op == "LayerNormalization" for node in graph.nodes)
    wanted = sum(isinstance(part, torch.nn.LayerNorm) for part in module.modules())
    if norms != wanted:
        raise ExportError(
            f"the graph has {norms} LayerNormalization nodes, the network {wanted} norms",
            where="fpet_export/graph/to_onnx.py",
            fix="report this with the versions of torch, onnx and onnxscript",
        )
    first = graph.inputs[0].shape[0]
    if isinstance(module.options.batch, tuple) != isinstance(first, str):
        raise ExportError(
            f"the batch dimension of the graph is {first!r}, asked for {module.options.batch}",
            where="fpet_export/graph/to_onnx.py",
            fix="report this with the versions of torch, onnx and onnxscript",
        )
    found = tokens_after_blocks(graph, spec.depth)
    if found != module.tokens:
        raise ExportError(
            f"the graph's blocks leave {found} tokens, planned were {module.tokens}",
            where="fpet_export/graph/to_onnx.py",
            fix="report this with the versions of torch, onnx and onnxscript",
        )


def tokens_after_blocks(graph: passes.Graph, depth: int) -> tuple[int, ...]:
    """Return the second extent of what the last linear layer of each block's MLP gives."""
    tokens: dict[int, int] = {}
    for node in graph.nodes:
        parts = node.name.split("/")
        if parts[0] == "blocks" and parts[2:3] == ["fc2"] and node.op in ("MatMul", "Add"):
            tokens[int(parts[1])] = int(node.outputs[0].shape[1])
    return tuple(tokens.get(index, 0) for index in range(depth))


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress lines and its deprecation notices off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
