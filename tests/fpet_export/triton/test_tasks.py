"""A folder of tasks for Triton: the model of each task runs, with a stand-in for the server.

The stand-in holds what the python backend's README promises, checks every request against the
backbone's own configuration, and runs the backbone with ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format

from engines.tasks.open_tasks import open_tasks
from tests.fpet_export.authors_run import write_run
from tests.fpet_export.command_line import LABELS, call, pixels_of, write_files
from tests.fpet_export.triton.triton_message import parse_config

TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        assert array.flags.c_contiguous
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class Failure:
    def __init__(self, text: str) -> None:
        self.text = text

    def message(self) -> str:
        return self.text


class Response:
    def __init__(self, output_tensors: list[Tensor], error: Failure | None = None) -> None:
        self.output_tensors, self.failure = output_tensors, error

    def has_error(self) -> bool:
        return self.failure is not None

    def error(self) -> Failure:
        assert self.failure is not None
        return self.failure


class Server:
    """Offers `triton_python_backend_utils`, and answers for the backbone."""

    def __init__(self, repository: Path) -> None:
        self.repository, self.calls = repository, 0
        self.failure: str | None = None

    def utilities(self) -> Any:
        module: Any = types.ModuleType("triton_python_backend_utils")
        server = self

        class InferenceRequest:
            def __init__(self, **facts: Any) -> None:
                self.facts = facts

            def exec(self) -> Response:
                return server.answer(**self.facts)

        module.Tensor, module.InferenceRequest = Tensor, InferenceRequest
        module.InferenceResponse, module.TritonError = Response, Failure
        module.TRITONSERVER_MEMORY_CPU = 0
        module.PreferredMemory = lambda kind, number: (kind, number)
        module.get_input_tensor_by_name = lambda request, name: request[name]
        module.get_output_tensor_by_name = lambda answer, name: next(
            one for one in answer.output_tensors if one.name == name
        )
        return module

    def answer(
        self,
        *,
        model_name: str,
        requested_output_names: list[str],
        inputs: list[Tensor],
        preferred_memory: tuple[int, int],
    ) -> Response:
        self.calls += 1
        if self.failure is not None:
            return Response([], Failure(self.failure))
        home = self.repository / model_name
        config = parse_config((home / "config.pbtxt").read_text())
        assert config.max_batch_size == 0  # so the dims are complete
        given = {one.name: one.array for one in inputs}
        kinds = config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type
        for wanted in config.input:
            array = given[wanted.name]
            assert array.dtype == TYPES[kinds.values_by_number[wanted.data_type].name]
            assert len(array.shape) == len(wanted.dims)
            for found, extent in zip(array.shape, wanted.dims, strict=True):
                assert extent in (-1, found)
        session = onnxruntime.InferenceSession(str(home / "1/model.onnx"))
        found = session.run(requested_output_names, given)
        return Response([Tensor(*pair) for pair in zip(requested_output_names, found, strict=True)])

    def model(self, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Load and start a model as the server does."""
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", self.utilities())
        home = self.repository / name
        spec = importlib.util.spec_from_file_location(f"served_{name}", home / "1/model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = json_format.MessageToDict(
            parse_config((home / "config.pbtxt").read_text()),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        model.initialize(
            {
                "model_config": json.dumps(config),
                "model_repository": str(home),
                "model_version": "1",
            }
        )
        return model


def write_folder(place: Path, batch: str) -> Path:
    one = write_files(place, method="lora")
    two = write_run(place / "two", method="adaptformer", bit=1)
    (place / "labels.txt").write_text("\n".join(LABELS) + "\n")
    words = (f"one={one.text}", f"two={two.text}", "--backbone", place / "backbone.safetensors")
    labels = ("--labels", f"two={place / 'labels.txt'}", "--limit", 2)
    done = call("tasks", *words, *labels, "--batch", batch, "-o", place / "out")
    assert done.code == 0, done.err
    return place / "out"


@pytest.fixture(scope="module", params=["1", "dyn:1-4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("tasks"), request.param)


@pytest.fixture(scope="module")
def repository(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    done = call("triton", folder, "-o", out, "--json")
    assert done.code == 0, done.err
    assert set(done.document()["tasks"]) == {"one", "two"}
    return out


def images_of(count: int) -> np.ndarray:
    pixels = pixels_of(count).astype(np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_task_answers_what_the_task_answers(
    name: str, folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(repository)
    model = server.model(name, monkeypatch)
    images = images_of(2)
    requests = [{"images": Tensor("images", one[None])} for one in images]

    responses = model.execute(requests)

    is_dynamic = parse_config((repository / name / "config.pbtxt").read_text()).max_batch_size > 0
    assert server.calls == (1 if is_dynamic else 2)
    with open_tasks(folder) as tasks:
        handle, other = tasks.task(name), tasks.task("two" if name == "one" else "one")
        for image, response in zip(images, responses, strict=True):
            (logits,) = response.output_tensors
            expected = handle.run({"images": image[None]})[logits.name]
            wrong = other.run({"images": image[None]})[logits.name]
            assert logits.array.shape == expected.shape
            # Batches of another size are summed in another order.
            np.testing.assert_allclose(logits.array, expected, rtol=0, atol=1e-5)
            assert np.abs(wrong - expected).max() > 1e-2


def test_every_request_gets_its_own_answer(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config((repository / "one/config.pbtxt").read_text())
    model = Server(repository).model("one", monkeypatch)
    images = images_of(3)
    parts = (images[:1], images[1:]) if config.max_batch_size else (images[:1], images[1:2])
    requests = [{"images": Tensor("images", part)} for part in parts]

    sizes = [len(one.output_tensors[0].array) for one in model.execute(requests)]

    assert sizes == [len(part) for part in parts]


def test_what_the_backbone_refuses_reaches_every_client(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(repository)
    model = server.model("one", monkeypatch)
    server.failure = "out of memory"
    requests = [{"images": Tensor("images", images_of(1))}] * 2

    responses = model.execute(requests)

    assert [one.error().message() for one in responses] == ["out of memory"] * 2


def test_a_task_has_its_own_labels_and_no_backbone(repository: Path, folder: Path) -> None:
    config = parse_config((repository / "two/config.pbtxt").read_text())
    backbones = [path.parent.parent for path in repository.glob("*/1/model.onnx")]

    assert config.backend == "python"
    assert config.platform == ""
    assert [one.name for one in config.input] == ["images"]
    assert config.output[0].label_filename == "labels.txt"
    assert (repository / "two/labels.txt").read_text().splitlines() == list(LABELS)
    assert not (repository / "one/labels.txt").exists()
    assert config.parameters["backbone"].string_value in {path.name for path in backbones}
    left = {path.name for path in (repository / "two/1").iterdir()} - {"__pycache__"}
    assert left == {"model.py", "weights.npz"}
    for home in backbones:
        assert call("verify", home / "1/model.onnx").code == 0


def test_nothing_is_overwritten_without_force(folder: Path, repository: Path) -> None:
    before = (repository / "one/config.pbtxt").stat().st_mtime_ns

    done = call("triton", folder, "-o", repository, "--json")

    assert done.code == 2
    assert (repository / "one/config.pbtxt").stat().st_mtime_ns == before
    assert call("triton", folder, "-o", repository, "--force").code == 0


def test_one_name_for_many_models_is_refused(folder: Path, tmp_path: Path) -> None:
    done = call("triton", folder, "-o", tmp_path / "m", "--name", "x", "--json")

    assert done.code == 2
    assert "several models" in done.error()["what"]


def test_a_damaged_task_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    call("triton", folder, "-o", tmp_path / "fine")
    copy.mkdir()
    for path in folder.rglob("*"):
        target = copy / path.relative_to(folder)
        if path.is_dir():
            target.mkdir()
        else:
            target.write_bytes(path.read_bytes())
    delta = copy / "tasks/two.safetensors"
    content = bytearray(delta.read_bytes())
    content[-1] ^= 1
    delta.write_bytes(content)

    done = call("triton", copy, "-o", tmp_path / "m", "--json")

    assert done.code == 10
    assert not (tmp_path / "m/two").exists()


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    assert call("triton", tmp_path, "-o", tmp_path / "m", "--json").code == 10
