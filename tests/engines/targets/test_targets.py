from __future__ import annotations

from pathlib import Path

import pytest

from engines import backends, registry, targets
from engines.engine import load_target
from engines.targets import Target

NAMES = registry.available(targets)
PRECISIONS = {"fp32", "fp16", "bf16", "int8", "fp8"}


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest) -> Target:
    return load_target(request.param)


def test_the_promised_targets_exist() -> None:
    assert {"cpu", "cuda", "openvino", "rtx", "tensorrt", "tensorrt8"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_called_like_its_file(name: str) -> None:
    assert load_target(name).name == name


def test_a_target_cites_its_sources(target: Target) -> None:
    assert target.sources
    assert all(len(source) > 20 for source in target.sources)
    assert any("opset" in source for source in target.sources)


def test_a_target_has_a_backend_and_the_ending_that_opens(target: Target) -> None:
    assert target.backend in registry.available(backends)
    assert target.suffix == {"ort": ".onnx", "ov": ".onnx", "trt": ".plan"}[target.backend]


def test_a_target_states_values_that_the_exporter_knows(target: Target) -> None:
    assert target.attention_scale in ("split", "folded")
    assert target.last_block in ("class-token", "all-tokens")
    assert set(target.precisions) <= PRECISIONS
    assert 17 <= target.opset <= target.opset_ceiling <= 25
    assert target.typing in ("strong", "weak")


def test_only_openvino_needs_reduced_int8_weights() -> None:
    """ONNX Runtime makes them unsigned where it must, and TensorRT's products do not clip."""
    assert [name for name in NAMES if load_target(name).int8_weights == "reduced"] == ["openvino"]


def test_weak_typing_is_for_tensorrt_8_alone() -> None:
    assert [name for name in NAMES if load_target(name).typing == "weak"] == ["tensorrt8"]
    assert not {"bf16", "fp8"} & set(load_target("tensorrt8").precisions)


def test_compute_capabilities_are_written_with_a_dot(target: Target) -> None:
    for name in target.compute_capabilities:
        major, _, minor = name.partition(".")
        assert major.isdigit()
        assert len(minor) == 1
        assert minor.isdigit()


def test_a_target_holds_data_only(target: Target) -> None:
    lines = Path(str(targets.__path__[0]), f"{target.name}.py").read_text("utf-8").splitlines()

    code = [line for line in lines if line.startswith(("def ", "class ", "if ", "for ", "import "))]
    assert not code
