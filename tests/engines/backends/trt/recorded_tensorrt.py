"""A stand-in for the module `tensorrt` of a recorded version, for builds without a GPU.

Every object refuses names that `tests/golden/tensorrt_api.json` does not list for its version, so
code that says a newer name fails here as it would on the board. The parser makes one layer a node,
a constant layer for each initializer, and a layer with a name of its own where it broadcasts, as
the real ones do. What the build was told is kept for the test to read.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

GOLDEN: dict[str, dict[str, dict[str, list[str]]]] = json.loads(
    (Path(__file__).parents[3] / "golden" / "tensorrt_api.json").read_text("utf-8")
)
_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.INT64: "INT32",  # as 8.6 reads it
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.BOOL: "BOOL",
}


@dataclasses.dataclass
class Build:
    """What one build was told.

    Attributes:
        creation_flags: The mask given to `create_network`.
        set_flags: Builder flags that are on, by name.
        cleared_flags: Builder flags that were switched off.
        layers: The network's layers, by name.
        fails_at: Place of the node at which the parser fails, or None.
        level: The optimization level.
        pools: Limits of memory pools, by name.
        profiles: Shapes by input of every profile added.
        timings_given: Bytes that timing caches were made of.
        takes_timings: What `set_timing_cache` answers to timings that are not empty.
        complaints: What the builder logs before it refuses; empty lets it build.
    """

    creation_flags: int = -1
    set_flags: set[str] = dataclasses.field(default_factory=set)
    cleared_flags: set[str] = dataclasses.field(default_factory=set)
    layers: dict[str, Any] = dataclasses.field(default_factory=dict)
    fails_at: int | None = None
    level: int | None = None
    pools: dict[str, int] = dataclasses.field(default_factory=dict)
    profiles: list[dict[str, tuple[Any, ...]]] = dataclasses.field(default_factory=list)
    timings_given: list[bytes] = dataclasses.field(default_factory=list)
    takes_timings: bool = True
    complaints: list[str] = dataclasses.field(default_factory=list)

    @property
    def held(self) -> dict[str, Any]:
        """The layers that were told a precision."""
        return {name: layer for name, layer in self.layers.items() if layer._precision is not None}


def tensorrt(version: str, build: Build) -> ModuleType:
    """Return the stand-in for a version, as "8.6.1", that notes in `build` what it is told."""
    api = GOLDEN[f"tensorrt {version}"]

    class Guarded:
        _kind = ""

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name not in api[type(self)._kind]:
                raise AttributeError(f"{type(self)._kind} of TensorRT {version} has no {name!r}")
            return object.__getattribute__(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_") and name not in api[type(self)._kind]:
                raise AttributeError(f"{type(self)._kind} of TensorRT {version} has no {name!r}")
            object.__setattr__(self, name, value)

    def members(kind: str) -> Any:
        names = [name for name in api[kind] if name.isupper()]
        return enum.IntEnum(kind, [(name, place) for place, name in enumerate(names)])

    types = members("DataType")

    class Tensor(Guarded):
        _kind = "ITensor"

        def __init__(self, name: str, dtype: str) -> None:
            self.name, self.dtype, self.is_shape_tensor = name, types[dtype], False

    class Layer(Guarded):
        _kind = "ILayer"

        def __init__(self, name: str, inputs: list[Any], outputs: list[Tensor]) -> None:
            self.name = name
            self._inputs, self._outputs = inputs, outputs
            self._precision: Any = None
            self._output_types: dict[int, Any] = {}
            self.num_inputs, self.num_outputs = len(inputs), len(outputs)

        def get_input(self, index: int) -> Any:
            return self._inputs[index]

        def get_output(self, index: int) -> Tensor:
            return self._outputs[index]

        @property
        def precision(self) -> Any:
            return self._precision

        @precision.setter
        def precision(self, value: Any) -> None:
            self._precision = value

        def set_output_type(self, index: int, value: Any) -> None:
            assert self._outputs[index].dtype == types.FLOAT, "an index has no precision"
            self._output_types[index] = value

    class Network(Guarded):
        _kind = "INetworkDefinition"

        def __init__(self) -> None:
            self._layers: list[Layer] = []

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        def get_layer(self, index: int) -> Layer:
            return self._layers[index]

        def _add(self, name: str, inputs: list[Any], outputs: list[Tensor]) -> Tensor:
            self._layers.append(Layer(name, inputs, outputs))
            assert name not in build.layers, name
            build.layers[name] = self._layers[-1]
            return outputs[-1]

    class ParserError(Guarded):
        _kind = "ParserError"

        def code(self) -> Any:
            return SimpleNamespace(name="UNSUPPORTED_NODE")

        def desc(self) -> str:
            return "No importer registered for op: Gelu"

        def node(self) -> int:
            assert build.fails_at is not None
            return build.fails_at

        def node_name(self) -> str:
            return "blocks/0/Gelu"

        def node_operator(self) -> str:
            return "Gelu"

    class OnnxParser(Guarded):
        _kind = "OnnxParser"

        def __init__(self, network: Network, log: Any) -> None:
            self._network = network

        def parse_from_file(self, path: str) -> bool:
            if build.fails_at is None:
                for name, inputs, outputs in _layers(onnx.load(path).graph, Tensor):
                    self._network._add(name, inputs, outputs)
            return build.fails_at is None

        @property
        def num_errors(self) -> int:
            return int(build.fails_at is not None)

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    class TimingCache(Guarded):
        _kind = "ITimingCache"

        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content + b" and more"

    class Profile(Guarded):
        _kind = "IOptimizationProfile"

        def __init__(self) -> None:
            self._shapes: dict[str, tuple[Any, ...]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes[input] = (min, opt, max)

    class Config(Guarded):
        _kind = "IBuilderConfig"

        def __init__(self) -> None:
            self._level = 3

        @property
        def builder_optimization_level(self) -> int:
            return self._level

        @builder_optimization_level.setter
        def builder_optimization_level(self, value: int) -> None:
            self._level = build.level = value

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            build.pools[pool.name] = pool_size

        def add_optimization_profile(self, profile: Profile) -> int:
            build.profiles.append(profile._shapes)
            return len(build.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
            build.timings_given.append(serialized_timing_cache)
            return TimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return build.takes_timings or not cache._content

        def set_flag(self, flag: Any) -> None:
            build.set_flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            build.cleared_flags.add(flag.name)

    class Builder(Guarded):
        _kind = "Builder"

        def __init__(self, log: Any) -> None:
            self._log = log

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def create_network(self, flags: int) -> Network:
            build.creation_flags = flags
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            for text in build.complaints:
                self._log.log(SimpleNamespace(name="ERROR"), text)
            return None if build.complaints else b"a plan"

    class Runtime(Guarded):
        """Deserializes nothing, as where the plan is of another machine."""

        _kind = "Runtime"

        def __init__(self, log: Any) -> None:
            self.engine_host_code_allowed = True

        def deserialize_cuda_engine(self, content: bytes) -> None:
            assert not self.engine_host_code_allowed

    module: Any = ModuleType("tensorrt")
    module.__version__ = version
    module.Builder, module.OnnxParser, module.Runtime = Builder, OnnxParser, Runtime
    module.ILogger = type("ILogger", (), {})
    for kind in (
        "BuilderFlag",
        "MemoryPoolType",
        "NetworkDefinitionCreationFlag",
        "ProfilingVerbosity",
    ):
        setattr(module, kind, members(kind))
    module.DataType = types
    if "IProgressMonitor" in api:
        module.IProgressMonitor = type("IProgressMonitor", (), {})
    return module  # type: ignore[no-any-return]


def _layers(graph: onnx.GraphProto, make: Any) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Yield name, inputs and outputs of the layers that a parser makes of a graph."""
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    tensors = {value.name: make(value.name, "FLOAT") for value in graph.input}
    constants = {weight.name: weight for weight in graph.initializer}
    for place, node in enumerate(graph.node):
        inputs = []
        for name in node.input:
            if name in constants and name not in tensors:
                tensors[name] = make(f"{name}_output", _TYPES[constants[name].data_type])
                yield name, [], [tensors[name]]
            source = tensors.get(name)
            if name in constants and node.op_type == "MatMul":
                wider = make(f"(Unnamed Layer* {place}) [Shuffle]_output", "FLOAT")
                yield f"(Unnamed Layer* {place}) [Shuffle]", [source], [wider]
                source = wider
            inputs.append(source)
        for name in node.output:
            tensors[name] = make(name, _TYPES[kinds.get(name, onnx.TensorProto.FLOAT)])
        outputs = [tensors[name] for name in node.output]
        if node.op_type == "ArgMax":  # a TopK: the largest values, and where they were
            outputs.insert(0, make(f"{node.output[0]}_values", "FLOAT"))
        yield node.name, inputs, outputs
