"""One task on a shared backbone, as a model of Triton's python backend.

`fpet-export triton FOLDER` copies this file as `TASK/1/model.py` beside the task's `weights.npz`.
The server calls it; it asks the backbone's model for the answer ("business logic scripting") with
the task's weights as additional inputs. Runs in the server's Python, with numpy only.

Source: github.com/triton-inference-server/python_backend, README.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What the python backend looks for, by this name."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Read the configuration and the task's weights."""
        config = json.loads(arguments["model_config"])
        self._backbone = config["parameters"]["backbone"]["string_value"]
        self._may_join = int(config["max_batch_size"]) > 0
        self._images = config["input"][0]["name"]
        self._outputs = [output["name"] for output in config["output"]]
        self._classes = int(config["output"][0]["dims"][-1])
        folder = Path(arguments["model_repository"]) / arguments["model_version"]
        with np.load(folder / "weights.npz") as content:
            self._weights = {name: content[name] for name in content.files}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests: in one batch where the batch is dynamic, else one after the other."""
        groups = [requests] if self._may_join else [[request] for request in requests]
        return [response for group in groups for response in self._answer(group)]

    def _answer(self, requests: list[Any]) -> list[Any]:
        images = [
            triton.get_input_tensor_by_name(request, self._images).as_numpy()
            for request in requests
        ]
        feeds = {self._images: np.concatenate(images), **self._weights}
        asked = triton.InferenceRequest(
            model_name=self._backbone,
            requested_output_names=self._outputs,
            inputs=[triton.Tensor(name, array) for name, array in feeds.items()],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        )
        answer = asked.exec()
        if answer.has_error():
            error = triton.TritonError(answer.error().message())
            return [triton.InferenceResponse(output_tensors=[], error=error) for _ in requests]
        ends = np.cumsum([len(array) for array in images])[:-1]
        parts = {name: np.split(self._value(answer, name), ends) for name in self._outputs}
        return [
            triton.InferenceResponse(
                output_tensors=[triton.Tensor(name, parts[name][index]) for name in self._outputs]
            )
            for index in range(len(requests))
        ]

    def _value(self, answer: Any, name: str) -> Any:
        """Return an output; of the logits only those that this task has."""
        value = triton.get_output_tensor_by_name(answer, name).as_numpy()
        if name == self._outputs[0]:
            value = value[:, : self._classes]
        return np.ascontiguousarray(value)
