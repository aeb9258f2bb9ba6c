"""Weak typing: the graph is float32, and flags tell the builder what else it may choose.

TensorRT 8.6 knows nothing else, 10 still takes it, 11 and TensorRT-RTX do not. Two things keep it
right here:

* The layers that a match follows from (normalised keys, scores, index of the best) are held in
  float32, because the two best scores of a row can be closer than half precision tells apart and a
  flipped match moves a whole token. TensorRT keeps to that only with the flag
  OBEY_PRECISION_CONSTRAINTS.
* LayerNormalization is one node since opset 17 and becomes one normalisation layer, which computes
  in float32 whatever the flags say; a norm of primitive operators would overflow in half precision,
  as the builder warns. So norms need no constraint.

Source: docstrings of the TensorRT 8.6.1 Python bindings (INormalizationLayer.compute_precision,
BuilderFlag, ILayer.precision); NVIDIA/TensorRT issue 2781 on norms; `setLayerPrecisions` of
trtexec 8.6 for which layers take a precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from engines.errors import EngineError

FLAGS: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
"""Precision of a graph to the builder flags that allow it; INT8 leaves much to FP16."""

OBEY = "OBEY_PRECISION_CONSTRAINTS"


@dataclasses.dataclass(frozen=True)
class WeakTyping:
    """What a weakly typed build needs to know about its graph.

    Attributes:
        precision: A name in `FLAGS`.
        match: The tensor with the index of each token's match, or None without a merge.
    """

    precision: str
    match: str | None

    @property
    def flags(self) -> tuple[str, ...]:
        """The builder flags that allow the precision."""
        return FLAGS[self.precision]


class Held(NamedTuple):
    """A layer that is held in float32.

    Attributes:
        name: As the parser calls it.
        outputs: Type of each output, as TensorRT's DataType names it; an index has none to hold.
    """

    name: str
    outputs: tuple[str, ...]


def creation_flags(trt: Any, *, where: str) -> int:
    """Return the bit mask for `create_network` that leaves precisions to the builder.

    Raises:
        EngineError: This TensorRT is too new to be weakly typed.
    """
    if not hasattr(trt.BuilderFlag, "FP16"):
        raise EngineError(
            f"{trt.__name__} {trt.__version__} builds strongly typed engines only: it has no "
            "builder flag that allows a precision",
            where=where,
            fix="export for the target tensorrt, or rtx, and quantize the graph for it",
        )
    flags = trt.NetworkDefinitionCreationFlag
    # Needed by 8.6; does nothing since 10.0, where every batch is explicit.
    return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0


def constrain(
    trt: Any, network: Any, config: Any, weak: WeakTyping, *, where: str
) -> tuple[tuple[Held, ...], dict[str, str]]:
    """Allow the graph's precision and hold its match in float32.

    Args:
        trt: The module `tensorrt`.
        network: Parsed; its layers have the names of the ONNX nodes.
        config: Of the build.
        weak: What is allowed.
        where: The graph, for messages.

    Returns:
        The layers held in float32, and the settings as text.

    Raises:
        EngineError: The network has no tensor of the match's name.
    """
    held: tuple[Held, ...] = ()
    names = weak.flags
    if names:
        names = (*names, OBEY)
        for name in names:
            config.set_flag(getattr(trt.BuilderFlag, name))
        if weak.match is not None:
            held = tuple(_hold(trt, layer) for layer in _decisive(trt, network, weak.match, where))
    settings = {"typing": "weak", "builder_flags": ", ".join(names) or "none"}
    if held:
        settings["float32_layers"] = ", ".join(layer.name for layer in held)
    return held, settings


def decisive_layers(trt: Any, network: Any, match: str, *, where: str) -> tuple[Held, ...]:
    """Return the layers that a decision of the merge follows from, in the network's order."""
    return tuple(_described(layer) for layer in _decisive(trt, network, match, where))


def _decisive(trt: Any, network: Any, match: str, where: str) -> list[Any]:
    """Return the layers of the merge whose floats end in an index or in a truth value.

    The parser names a layer after its ONNX node, `blocks/6/merge/MatMul`; constants and the layers
    that it adds for broadcasting have names without a slash and belong to what reads them.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    module = _module_of(match, made_by, where)
    found: dict[str, Any] = {}
    waiting = [layer for layer in layers if layer.name.startswith(module) and _decides(trt, layer)]
    while waiting:
        layer = waiting.pop()
        if layer.name in found:
            continue
        found[layer.name] = layer
        makers = (made_by.get(tensor.name) for tensor in _inputs(layer) if _is_float(trt, tensor))
        waiting += [
            maker
            for maker in makers
            if maker is not None and (maker.name.startswith(module) or "/" not in maker.name)
        ]
    return [
        layer for layer in layers if layer.name in found and not _is_shared(layer, layers, found)
    ]


def _is_shared(layer: Any, layers: list[Any], found: dict[str, Any]) -> bool:
    """Whether layers of other modules read this one too, as the 0.5 of a GELU.

    Such a constant is exact in half precision and stays free: held, it could break their fusion.
    """
    made = {tensor.name for tensor in _outputs(layer)}
    return "/" not in layer.name and any(
        tensor.name in made
        for reader in layers
        if reader.name not in found
        for tensor in _inputs(reader)
    )


def _module_of(match: str, made_by: dict[str, Any], where: str) -> str:
    """Return the module path of the merge, with its slash, from the layer that makes the match."""
    layer = made_by.get(match)
    while layer is not None and "/" not in layer.name:  # behind a layer that the parser added
        layer = next((made_by.get(tensor.name) for tensor in _inputs(layer)), None)
    if layer is None:
        raise EngineError(
            f"the network has no tensor {match!r}, whose layers must stay in float32",
            where=where,
            fix="export and quantize the run again, so that graph and manifest belong together",
        )
    return str(layer.name).rpartition("/")[0] + "/"


def _decides(trt: Any, layer: Any) -> bool:
    """Whether a layer turns floats into an index or a truth value (shapes are neither)."""
    return any(_is_float(trt, tensor) for tensor in _inputs(layer)) and any(
        not tensor.is_shape_tensor and not _is_float(trt, tensor) for tensor in _outputs(layer)
    )


def _hold(trt: Any, layer: Any) -> Held:
    """Have a layer compute and answer in float32."""
    layer.precision = trt.DataType.FLOAT
    for index, tensor in enumerate(_outputs(layer)):
        if _is_float(trt, tensor):  # an index keeps its own type
            layer.set_output_type(index, trt.DataType.FLOAT)
    return _described(layer)


def _described(layer: Any) -> Held:
    return Held(str(layer.name), tuple(tensor.dtype.name for tensor in _outputs(layer)))


def _inputs(layer: Any) -> Iterator[Any]:
    """Yield the inputs that are given: an optional one may be missing."""
    tensors = (layer.get_input(index) for index in range(layer.num_inputs))
    return (tensor for tensor in tensors if tensor is not None)


def _outputs(layer: Any) -> Iterator[Any]:
    return (layer.get_output(index) for index in range(layer.num_outputs))


def _is_float(trt: Any, tensor: Any) -> bool:
    return bool(tensor.dtype == trt.DataType.FLOAT and not tensor.is_shape_tensor)
