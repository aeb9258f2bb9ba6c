"""The configuration for Triton, read back with Triton's own schema."""

from __future__ import annotations

import dataclasses

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InputError
from engines.manifest import Manifest, Runtime, TensorSpec
from fpet_export.triton.config import Serving, labels_of, max_batch_size, model_config
from tests.fpet_export.triton.triton_message import parse_config

PLAN = Manifest(
    kind="engine",
    file="model.fp16.plan",
    sha256="0" * 64,
    inputs=(TensorSpec(name="pixels", shape=("batch", 3, 224, 224), dtype="float32"),),
    outputs=(TensorSpec(name="logits", shape=("batch", 3), dtype="float32"),),
    precision="fp16",
    opset=20,
    target="tensorrt",
    weights="trained",
    labels=("ant", "bee", "cat"),
    batch_range=(1, 8),
    runtime=Runtime(flavour="tensorrt", version="10.13.3.9", compute_capabilities=("8.6",)),
)
GPU = Serving(name="digits", backend="tensorrt", on_gpu=True)
CPU = Serving(name="digits", backend="onnxruntime", on_gpu=False)


def shaped(manifest: Manifest, batch: int | str) -> Manifest:
    def first(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(one, shape=(batch, *one.shape[1:])) for one in specs)

    return dataclasses.replace(
        manifest, inputs=first(manifest.inputs), outputs=first(manifest.outputs)
    )


def test_a_plan_with_a_dynamic_batch_is_batched_by_the_server() -> None:
    config = parse_config(model_config(PLAN, GPU))

    assert (config.name, config.platform, config.backend) == ("digits", "tensorrt_plan", "tensorrt")
    assert config.default_model_filename == "model.plan"
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    (pixels,), (logits,) = config.input, config.output
    assert (pixels.name, list(pixels.dims)) == ("pixels", [3, 224, 224])
    assert (logits.name, list(logits.dims)) == ("logits", [3])
    assert logits.label_filename == "labels.txt"
    assert pixels.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[
        pixels.data_type
    ].name == "TYPE_FP32"  # fmt: skip
    assert config.version_policy.latest.num_versions == 1


def test_a_static_batch_is_one_request_with_all_its_dimensions() -> None:
    config = parse_config(model_config(shaped(PLAN, 4), GPU))

    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [4, 3, 224, 224]
    assert list(config.output[0].dims) == [4, 3]


def test_a_largest_batch_of_one_needs_no_batcher() -> None:
    config = parse_config(model_config(dataclasses.replace(PLAN, batch_range=(1, 1)), GPU))

    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize(("extent", "dim"), [(768, 768), ("rank", -1)])
def test_an_input_without_the_batch_forbids_batching(extent: int | str, dim: int) -> None:
    """Weights that are inputs are shared by all images of a batch."""
    weights = TensorSpec(name="weights", shape=(extent, 8), dtype="float16")
    manifest = dataclasses.replace(PLAN, inputs=(*PLAN.inputs, weights))

    config = parse_config(model_config(manifest, GPU))

    assert config.max_batch_size == 0
    assert [list(one.dims) for one in config.input] == [[-1, 3, 224, 224], [dim, 8]]


def test_a_value_an_image_is_given_a_dimension() -> None:
    score = TensorSpec(name="score", shape=("batch",), dtype="float32")
    manifest = dataclasses.replace(PLAN, outputs=(*PLAN.outputs, score), labels=())

    config = parse_config(model_config(manifest, GPU))

    assert list(config.output[1].dims) == [1]
    assert config.output[1].HasField("reshape")
    assert list(config.output[1].reshape.shape) == []
    assert not config.output[0].HasField("reshape")
    assert not any(one.label_filename for one in config.output)


def test_instances_and_gpus_are_named() -> None:
    serving = dataclasses.replace(GPU, instances=2, gpus=(0, 3), queue_delay_us=500)

    config = parse_config(model_config(PLAN, serving))

    (group,) = config.instance_group
    kinds = group.DESCRIPTOR.enum_types_by_name["Kind"].values_by_number
    assert (group.count, list(group.gpus)) == (2, [0, 3])
    assert kinds[group.kind].name == "KIND_GPU"
    assert config.dynamic_batching.max_queue_delay_microseconds == 500


def test_a_graph_runs_on_the_cpu() -> None:
    graph = dataclasses.replace(PLAN, kind="graph", file="model.onnx", runtime=None)

    config = parse_config(model_config(graph, CPU))

    (group,) = config.instance_group
    kinds = group.DESCRIPTOR.enum_types_by_name["Kind"].values_by_number
    assert kinds[group.kind].name == "KIND_CPU"
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert config.default_model_filename == "model.onnx"


def test_what_built_the_plan_stands_above() -> None:
    text = model_config(PLAN, GPU)

    assert "# Built by tensorrt 10.13.3.9, compute capability 8.6: serve it with the same." in text
    assert f"SHA-256 {'0' * 64}" in text


@pytest.mark.parametrize(
    ("batch_range", "said"), [(None, "does not say how large"), ((2, 8), "smallest batch is 2")]
)
def test_a_batch_that_triton_cannot_form_is_refused(
    batch_range: tuple[int, int] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        max_batch_size(dataclasses.replace(PLAN, batch_range=batch_range))


@pytest.mark.parametrize(
    ("dtype", "serving"), [("bfloat16", CPU), ("float64", GPU), ("float8_e4m3fn", GPU)]
)
def test_a_type_that_the_backend_lacks_is_refused(dtype: str, serving: Serving) -> None:
    pixels = dataclasses.replace(PLAN.inputs[0], dtype=dtype)

    with pytest.raises(InputError, match=f"'pixels' is {dtype}"):
        model_config(dataclasses.replace(PLAN, inputs=(pixels,)), serving)


def test_labels_belong_to_an_output_with_a_value_for_each() -> None:
    assert labels_of(PLAN) == ("ant", "bee", "cat")
    assert labels_of(dataclasses.replace(PLAN, labels=("ant", "bee"))) == ()


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.text())
def test_any_name_comes_back(name: str, file: str) -> None:
    pixels = dataclasses.replace(PLAN.inputs[0], name=name)
    manifest = dataclasses.replace(PLAN, inputs=(pixels,), file=file)

    config = parse_config(model_config(manifest, GPU))

    assert config.input[0].name == name
    assert config.name == "digits"


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("max_batch_size", "largest_batch"),
        ("TYPE_FP32", "TYPE_FLOAT"),
        ("KIND_GPU", "KIND_CUDA"),
        ("label_filename", "labels"),
        ("dynamic_batching {", "dynamic_batching { preferred: 4"),
    ],
)
def test_the_schema_refuses_what_it_does_not_know(good: str, bad: str) -> None:
    """The control: without this, the tests above would accept any text."""
    text = model_config(PLAN, GPU)
    assert good in text

    with pytest.raises(text_format.ParseError):
        parse_config(text.replace(good, bad))
