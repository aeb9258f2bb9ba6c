"""What every data file in `engines/targets/` must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import backends, registry, targets
from engines.targets import Device, Target, _lookup

NAMES = _lookup.target_names()
ENTRIES = [_lookup.entry(name) for name in NAMES]
DEVICES = [one for one in ENTRIES if isinstance(one, Device)]
TARGETS = [one for one in ENTRIES if isinstance(one, Target)]
RESOLVED = [*TARGETS, *(device.at(one.name) for device in DEVICES for one in device.releases)]
PRECISIONS = {"fp32", "fp16", "bf16", "int8", "fp8"}


def by_name(one: object) -> str:
    return one.name if isinstance(one, Device | Target) else str(one)


@pytest.fixture(params=RESOLVED, ids=by_name)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


@pytest.fixture(params=DEVICES, ids=by_name)
def device(request: pytest.FixtureRequest) -> Device:
    found: Device = request.param
    return found


def test_the_promised_targets_exist() -> None:
    assert {"cpu", "cuda", "openvino", "rtx", "tensorrt"} <= set(NAMES)
    assert {
        "jetson-orin-nano-4gb", "jetson-orin-nano-8gb", "jetson-orin-nx-8gb", "jetson-orin-nx-16gb",
        "jetson-agx-orin-32gb", "jetson-agx-orin-64gb", "jetson-thor-t4000", "jetson-thor-t5000",
        "t4", "a10", "a100", "l4", "l40s", "h100", "h200",
        "rtx-3090", "rtx-4090", "rtx-5090", "gb10",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_called_like_its_file(name: str) -> None:
    assert _lookup.entry(name).name == name
    assert name.replace("-", "_") in registry.available(targets)


@pytest.mark.parametrize("entry", ENTRIES, ids=by_name)
def test_a_file_holds_data_only(entry: Target | Device) -> None:
    path = Path(str(targets.__path__[0]), f"{entry.name.replace('-', '_')}.py")
    lines = path.read_text("utf-8").splitlines()

    code = [line for line in lines if line.startswith(("def ", "class ", "if ", "for ", "import "))]
    assert not code


def test_a_target_cites_its_sources(target: Target) -> None:
    assert target.sources
    assert all(len(source) > 20 for source in target.sources)
    assert any("opset" in source for source in target.sources)


def test_a_target_has_a_backend_and_the_ending_that_opens(target: Target) -> None:
    assert target.backend in registry.available(backends)
    assert (
        target.suffix
        == {"ort": ".onnx", "ov": ".onnx", "trt": ".plan", "aoti": ".pt2"}[target.backend]
    )


def test_a_target_states_values_that_the_exporter_knows(target: Target) -> None:
    assert target.attention_scale in ("split", "folded")
    assert target.last_block in ("class-token", "all-tokens")
    assert target.precisions
    assert set(target.precisions) <= PRECISIONS
    assert 17 <= target.opset <= target.opset_ceiling <= 25


def test_a_target_names_itself_for_files_too(target: Target) -> None:
    assert not set(target.file_name) & set("@/\\: ")


def test_only_openvino_needs_reduced_int8_weights() -> None:
    """ONNX Runtime makes them unsigned where it must, and TensorRT's products do not clip."""
    assert [one.name for one in RESOLVED if one.int8_weights == "reduced"] == ["openvino"]


def test_compute_capabilities_are_written_with_a_dot(target: Target) -> None:
    own = () if target.device is None else (target.device.gpu.compute_capability,)
    for name in (*target.compute_capabilities, *own):
        major, _, minor = name.partition(".")
        assert major.isdigit()
        assert len(minor) == 1
        assert minor.isdigit()


def test_only_tensorrt_has_settings_of_its_builder(target: Target) -> None:
    assert (target.optimization_level is not None) == (target.backend == "trt")
    assert target.workspace_bytes is None or target.device is not None


def test_precisions_follow_from_the_generation(device: Device) -> None:
    number = float(device.gpu.compute_capability)

    assert ("bf16" in device.gpu.precisions) == (number >= 8.0)
    assert ("fp8" in device.gpu.precisions) == (number >= 8.9)


def test_every_fact_of_a_device_has_its_source(device: Device) -> None:
    told = {source.partition(":")[0].partition(" jp")[0] for source in device.sources}
    wanted = {"compute capability", "memory", "peaks"}
    if device.board is not None:
        wanted |= {"modules", "power modes", "rails"}

    assert wanted <= told
    assert any(source.startswith(f"default release {device.default}:") for source in device.sources)


def test_what_is_not_published_is_said(device: Device) -> None:
    best = device.gpu.peaks[0]
    facts = [best.multiprocessors, best.fp16_tflops, best.int8_tops, best.bandwidth_gb_s]
    facts += [best.fp8_tflops] if "fp8" in device.gpu.precisions else []
    facts += [None] if device.board is not None and not device.board.power_modes else []

    if None in facts:
        assert any("not published" in source for source in device.sources)


def test_peaks_are_dense_and_their_ratios_those_of_the_generation(device: Device) -> None:
    """A sparse figure taken for a dense one, or a digit lost, breaks a ratio."""
    for peaks in device.gpu.peaks:
        best_fp16 = peaks.fp16_narrow_tflops or peaks.fp16_tflops
        if best_fp16 is not None and peaks.int8_tops is not None:
            assert peaks.int8_tops / best_fp16 == pytest.approx(2, abs=0.06)
        if peaks.fp16_tflops is not None and peaks.fp8_tflops is not None:
            assert peaks.fp8_tflops / peaks.fp16_tflops == pytest.approx(2, abs=0.06)


def test_orin_does_1024_multiply_adds_an_sm_and_clock() -> None:
    for name, sms, ghz, tflops in (
        ("jetson-orin-nano-8gb", 8, 1.02, 16.7),
        ("jetson-orin-nx-16gb", 8, 1.173, 19.2),
        ("jetson-agx-orin-64gb", 16, 1.3, 42.6),
    ):
        entry = _lookup.entry(name)
        assert isinstance(entry, Device)
        best = entry.gpu.peaks[0]
        assert (best.multiprocessors, best.fp16_tflops) == (sms, tflops)
        assert sms * 2 * 1024 * ghz / 1000 == pytest.approx(tflops, rel=0.005)


def test_peaks_are_those_of_its_precisions_and_fall_with_the_mode(device: Device) -> None:
    known = [one.fp16_tflops for one in device.gpu.peaks if one.fp16_tflops is not None]

    assert known == sorted(known, reverse=True)
    for peaks in device.gpu.peaks:
        assert "fp8" in device.gpu.precisions or peaks.fp8_tflops is None
        modes = device.board.power_modes if device.board is not None else ()
        assert peaks.mode in (modes or ("",))


def test_a_rail_is_never_counted_twice(device: Device) -> None:
    if device.board is not None:
        total, parts = device.board.rails.total, device.board.rails.parts
        assert total
        assert len({*total, *parts}) == len(total) + len(parts)


def test_the_default_release_is_one_of_the_releases(device: Device) -> None:
    names = [release.name for release in device.releases]

    assert device.default in names
    assert len(set(names)) == len(names)


def test_the_workspace_leaves_most_of_a_shared_memory(device: Device) -> None:
    shared = device.workspace_bytes

    assert (shared is not None) == device.gpu.memory_is_shared
    assert shared is None or shared * 4 == device.gpu.memory_gb << 30
