"""A stand-in for the module `tensorrt` of a recorded version, for builds without a GPU.

Every object refuses names that `tests/golden/tensorrt_api.json` does not list for its version, so
code that says a newer name fails here as it would on the board. What the build was told is kept
for the test to read; that a graph is parsed and built is proved with TensorRT-RTX itself.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

GOLDEN: dict[str, dict[str, dict[str, list[str]]]] = json.loads(
    (Path(__file__).parents[3] / "golden" / "tensorrt_api.json").read_text("utf-8")
)


@dataclasses.dataclass
class Build:
    """What one build was told.

    Attributes:
        creation_flags: The mask given to `create_network`.
        cleared_flags: Builder flags that were switched off.
        level: The optimization level.
        pools: Limits of memory pools, by name.
        profiles: Shapes by input of every profile added.
        timings_given: Bytes that timing caches were made of.
        takes_timings: What `set_timing_cache` answers to timings that are not empty.
        complaints: What the builder logs before it refuses; empty lets it build.
    """

    creation_flags: int = -1
    cleared_flags: set[str] = dataclasses.field(default_factory=set)
    level: int | None = None
    pools: dict[str, int] = dataclasses.field(default_factory=dict)
    profiles: list[dict[str, tuple[Any, ...]]] = dataclasses.field(default_factory=list)
    timings_given: list[bytes] = dataclasses.field(default_factory=list)
    takes_timings: bool = True
    complaints: list[str] = dataclasses.field(default_factory=list)


def tensorrt(version: str, build: Build) -> ModuleType:
    """Return the stand-in for a version, as "10.3.0", that notes in `build` what it is told."""
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

    class Network(Guarded):
        _kind = "INetworkDefinition"

    class OnnxParser(Guarded):
        _kind = "OnnxParser"

        def __init__(self, network: Network, log: Any) -> None:
            pass

        def parse_from_file(self, path: str) -> bool:
            return Path(path).is_file()

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
    module.IProgressMonitor = type("IProgressMonitor", (), {})
    return module  # type: ignore[no-any-return]
