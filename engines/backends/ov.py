"""OpenVINO on the CPU: where it is installed, the fastest way to run a frozen graph there.

The artefact is the graph itself, byte by byte, under a name and with a side-car that say OpenVINO.
Building compiles it once, to prove that this OpenVINO takes it; opening compiles it again. Of
OpenVINO's own files, the compiled blob is bound to one version and one CPU and opens more slowly
(ViT-B/16: 1.5 s against 0.8 s for the graph), and the IR is two files. So an artefact made here
opens under any later version and on any CPU, and its side-car says which version it was checked
with.

Numbers are float32 unless the graph says otherwise: on a CPU with avx512_bf16 or AMX, OpenVINO by
default computes a float32 graph in bfloat16, in which two near-equal scores of the token match
are one.

An INT8 graph is refused where OpenVINO would clip its sums without a word: on a CPU without VNNI,
unless the weights keep to half the range (`_ort/saturation.py`). OpenVINO has no setting against
it.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines import precisions, storage
from engines.backends._engine_base import EngineBase, EngineSpec
from engines.backends._openvino import openvino
from engines.backends._ort.saturation import LARGEST_EXACT, FloatArray, saturates
from engines.backends._provenance import engine_manifest, read_source
from engines.backends._requests import (
    built_by,
    refuse_gpu_options,
    refuse_zero_copy,
    report,
    thread_count,
)
from engines.commands import requantize
from engines.contract import Array, BuildOptions, BuildRecord, OpenOptions
from engines.errors import EngineError, InputError, UsageError
from engines.machine import processor
from engines.manifest import Manifest, Runtime, manifest_path, read_manifest
from engines.onnx_header import OnnxHeader, read_onnx_header
from engines.targets import Target

_FLAVOUR = "openvino"
_VERSION = openvino.get_version().partition("-")[0]
_PRECISION = "f32"
_WEIGHTS = "int8_weights"
_FULL = "full range, refused on CPUs that clip sums of u8 x s8"
_REDUCED = "reduced, exact on every CPU"
_OV_ERRORS = (RuntimeError, ValueError)  # ValueError: a message that is not UTF-8
_OWN_SOURCE = re.compile(r"Exception from \S+:\d+:?$|Check '.*' failed at \S+:\d+:?$|FrontEnd API")


def build(onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> BuildRecord:
    """Compile the graph once and write its bytes to `out`; see `engines.contract.Backend`.

    Raises:
        InputError: The graph is damaged or does not suit the target or this CPU, its external
            weights are not where they belong, or the result cannot be written.
        UsageError: An option is for TensorRT.
        EngineError: OpenVINO refuses the graph.
    """
    refuse_gpu_options(options, target)
    source = read_source(onnx, target, allow_failed=options.allow_failed, any_form=options.any_form)
    _require_exact_sums(onnx, source.header)
    external = source.header.external_files
    if external and storage.home_of(out).resolve() != onnx.parent.resolve():
        raise InputError(
            f"the graph's weights lie in other files: {', '.join(external)}",
            where=str(onnx),
            fix=f"write the engine beside them, into {onnx.parent}",
        )
    report(options, "compile", 0)
    _compile(onnx, threads=thread_count(None))
    report(options, "compile", 1)
    with storage.atomic_path(out) as temporary:
        shutil.copyfile(onnx, temporary)
    runtime = Runtime(
        flavour=_FLAVOUR,
        version=_VERSION,
        settings={
            "provider": "cpu",
            "inference_precision": _PRECISION,
            "cpu": processor.processor_name(),
            **_int8_weights(source.header),
        },
    )
    manifest = engine_manifest(
        source, target, runtime=runtime, command=options.command, companions=external
    )
    return BuildRecord(manifest=manifest)


def open_engine(artefact: Path, manifest: Manifest | None, *, options: OpenOptions) -> OvEngine:
    """Open a graph, or what `build` wrote; see `engines.contract.Backend`.

    Raises:
        InputError: The graph is damaged, its external weights are not where they belong, or its
            INT8 weights are too large for this CPU.
        TrustError: The manifest is of another runtime's engine.
        UsageError: The graph is to run as it is written, or on a GPU.
        EngineError: OpenVINO refuses the graph.
    """
    header = read_onnx_header(artefact)
    if manifest is not None and manifest.kind == "engine":
        built_by(artefact, manifest, _FLAVOUR)
    if options.rewrites not in (None, "all"):
        raise UsageError(
            "OpenVINO cannot run a graph as it is written: it always rewrites it",
            where=str(artefact),
            fix="open the graph in ONNX Runtime",
        )
    refuse_zero_copy(options, str(artefact))
    if options.provider not in (None, "cpu"):
        raise UsageError(
            f"the target openvino runs on the CPU, not on {options.provider}",
            where=str(artefact),
            fix="leave the provider out, or build for the target cuda",
        )
    _require_exact_sums(artefact, header)
    threads = thread_count(options.threads)
    spec = EngineSpec(
        name=options.name or artefact.stem,
        inputs=header.inputs,
        outputs=header.outputs,
        batch_range=manifest.batch_range if manifest else None,
        facts={
            "runtime": _FLAVOUR,
            "version": _VERSION,
            "provider": "cpu",
            "threads": str(threads),
            "hint": "latency",
            "precision": _PRECISION,
            "opset": str(header.opset),
            **_int8_weights(header),
            "device": processor.processor_name(),
        },
    )
    return OvEngine(spec, _compile(artefact, threads=threads))


class OvEngine(EngineBase):
    """A model compiled by OpenVINO; implements `engines.contract.Engine`."""

    def __init__(self, spec: EngineSpec, compiled: Any) -> None:
        super().__init__(spec)
        self._compiled = compiled

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.contract.Engine`."""
        request = self._request(feeds)
        self._infer(request)
        return {
            spec.name: np.array(request.get_output_tensor(index).data)
            for index, spec in enumerate(self.outputs)
        }

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put `feeds` in place; OpenVINO keeps the outputs' memory. See `Engine.bind`."""
        request = self._request(feeds)

        def run_once() -> None:
            self._require_open()
            self._infer(request)

        return run_once

    def _free(self) -> None:
        self._compiled = None

    def _request(self, feeds: Mapping[str, Array]) -> Any:
        """Return a request of its own (0.1 ms), so that threads do not disturb each other."""
        checked, _ = self._check(feeds)
        request = self._compiled.create_infer_request()
        for name, value in checked.items():
            request.set_tensor(name, openvino.Tensor(value))
        return request

    def _infer(self, request: Any) -> None:
        try:
            request.infer()
        except _OV_ERRORS as error:
            raise EngineError(
                f"OpenVINO failed while running: {_one_line(error)}",
                where=self.name,
                fix="open the graph in ONNX Runtime to see whether the graph is at fault",
            ) from error


@functools.cache
def saturates_here() -> bool:
    """Say whether OpenVINO's products of unsigned and signed bytes are clipped on this CPU."""
    return saturates(_run_trial)


def _run_trial(model: bytes, x: FloatArray) -> FloatArray:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", _settings(threads=1))
    y: FloatArray = compiled(x)[0]
    return y


def _require_exact_sums(graph: Path, header: OnnxHeader) -> None:
    """Refuse INT8 weights whose products OpenVINO clips on this CPU.

    Raises:
        InputError: They are.
    """
    if _int8_weights(header).get(_WEIGHTS) == _FULL and saturates_here():
        manifest = read_manifest(graph) if manifest_path(graph).exists() else None
        how = requantize(graph, manifest, precision=precisions.INT8, target="openvino")
        raise InputError(
            f"INT8 weights reach {header.largest_int8}; without VNNI, which this CPU lacks, "
            f"OpenVINO sums their products exactly only up to {LARGEST_EXACT}",
            where=str(graph),
            fix=f"{how}; or build for the target cpu",
        )


def _int8_weights(header: OnnxHeader) -> dict[str, str]:
    if not header.is_quantized or not header.largest_int8:
        return {}
    return {_WEIGHTS: _REDUCED if header.largest_int8 <= LARGEST_EXACT else _FULL}


def _settings(*, threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": _PRECISION,
    }


def _compile(graph: Path, *, threads: int) -> Any:
    try:
        return openvino.Core().compile_model(str(graph), "CPU", _settings(threads=threads))
    except _OV_ERRORS as error:
        raise EngineError(
            f"OpenVINO {_VERSION} refuses the graph: {_one_line(error)}",
            where=str(graph),
            fix="pip install -U openvino, or build for the target cpu",
        ) from error


def _one_line(error: BaseException) -> str:
    """Return OpenVINO's message without line breaks and the places in its own source code."""
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        text = error.object.decode("utf-8", "replace")
    lines = (line.strip(" -") for line in text.splitlines())
    said = [line for line in lines if line and not _OWN_SOURCE.match(line)]
    return " ".join(said) or type(error).__name__
