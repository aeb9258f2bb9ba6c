"""The parser of logits: compiled, called as nvinfer calls it, and compared with numpy."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.manifest import Manifest, TensorSpec
from fpet_export.deepstream.parser import parser_source
from tests.fpet_export.deepstream.nvinfer_reference import class_by_its_own_parser

INCLUDES = os.environ.get("DEEPSTREAM_INCLUDES", str(Path(__file__).with_name("declared")))
COMPILER = next(filter(shutil.which, ("g++", "clang++", "c++")), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler: g++")
LABELS = ("ant", 'a "bee" \\ ??/', "Käfer", "@FUNCTION@ {0}", "elk 7")
FLOAT, HALF = 0, 1

_CALL = """\
extern "C" int call(int type, const char *name, float *values, unsigned int count, float threshold,
                    unsigned int *best, float *confidence, char *label, char *description) {
  NvDsInferLayerInfo other{}, layer{};
  other.layerName = "match";
  layer.dataType = static_cast<NvDsInferDataType>(type);
  layer.inferDims.numDims = 1;
  layer.inferDims.d[0] = layer.inferDims.numElements = count;
  layer.layerName = name;
  layer.buffer = values;
  std::vector<NvDsInferAttribute> attributes;
  std::string text;
  if (!NvDsInferParseFpetLogits({other, layer}, {}, threshold, attributes, text)) return -1;
  if (!attributes.empty()) {
    *best = attributes[0].attributeValue;
    *confidence = attributes[0].attributeConfidence;
    std::strcpy(label, attributes[0].attributeLabel);
    free(attributes[0].attributeLabel);
  }
  std::strcpy(description, text.c_str());
  return static_cast<int>(attributes.size());
}
"""


@dataclasses.dataclass(frozen=True)
class Answer:
    best: int
    confidence: float
    label: str
    description: str


@dataclasses.dataclass(frozen=True)
class Parser:
    library: ctypes.CDLL

    def __call__(
        self,
        logits: NDArray[np.float32],
        *,
        threshold: float = 0.0,
        dtype: int = FLOAT,
        name: str = "logits",
    ) -> Answer | None:
        values = np.ascontiguousarray(logits, np.float32)
        best, confidence = ctypes.c_uint(), ctypes.c_float()
        label, text = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
        count = self.library.call(
            dtype, name.encode(), values.ctypes.data_as(ctypes.c_void_p), values.size,
            ctypes.c_float(threshold), ctypes.byref(best), ctypes.byref(confidence), label, text,
        )  # fmt: skip
        assert count in (0, 1)
        if count == 0:
            assert text.value == b""
            return None
        return Answer(best.value, confidence.value, label.value.decode(), text.value.decode())


def manifest(labels: tuple[str, ...] = LABELS) -> Manifest:
    return Manifest(
        kind="engine", file="model.plan", precision="fp16", opset=20, target="tensorrt",
        weights="trained", labels=labels, sha256="0" * 64,
        inputs=(TensorSpec(name="images", shape=(1, 3, 16, 16), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=(1, len(LABELS)), dtype="float32"),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Parser:
    folder = tmp_path_factory.mktemp("parser")
    source, library = folder / "parser.cpp", folder / "libparser.so"
    source.write_text(parser_source(manifest()) + _CALL, "utf-8")
    assert COMPILER is not None
    words = [COMPILER, "-std=c++14", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    words += ["-isystem", INCLUDES, str(source), "-o", str(library)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Parser(ctypes.CDLL(str(library)))


def rows() -> NDArray[np.float32]:
    generator = np.random.default_rng(7)
    ordinary = generator.normal(0.0, 3.0, (200, len(LABELS)))
    far = generator.normal(0.0, 1.0, (50, len(LABELS))) * 1e4
    negative = -1.0 - np.abs(generator.normal(0.0, 3.0, (50, len(LABELS))))
    equal = np.full((1, len(LABELS)), -2.0)
    return np.concatenate([ordinary, far, negative, equal]).astype(np.float32)


@needs_compiler
def test_every_row_of_logits_has_the_class_and_the_probability_of_predict(parser: Parser) -> None:
    for logits in rows():
        shares = np.exp(logits.astype(np.float64) - logits.max())
        shares /= shares.sum()

        answer = parser(logits)

        best = int(np.argsort(-shares, kind="stable")[0])
        assert answer is not None
        assert answer.best == best
        assert answer.confidence == pytest.approx(shares[best], rel=1e-6)
        assert answer.label == LABELS[best]
        assert answer.description == f"{LABELS[best]} "


def test_nvinfers_own_parser_hides_classes_of_logits() -> None:
    """Why there is one of ours: no threshold that nvinfer takes gives these pictures a class."""
    hidden = [logits for logits in rows() if class_by_its_own_parser(logits, threshold=0.0) is None]
    assert len(hidden) >= 51
    assert all(logits.max() <= 0 for logits in hidden)
    softmax = np.exp(hidden[0].astype(np.float64) - hidden[0].max())
    shares = (softmax / softmax.sum()).astype(np.float32)
    found = class_by_its_own_parser(shares, threshold=0.0)  # the control: probabilities suit it
    assert found is not None and found[0] == int(hidden[0].argmax())
    reported = class_by_its_own_parser(np.array([7.5, 1.0], np.float32), threshold=0.0)
    assert reported == (0, 7.5)  # a logit for a probability


@needs_compiler
def test_a_threshold_hides_what_is_not_above_it(parser: Parser) -> None:
    logits = np.log(np.array([0.1, 0.6, 0.1, 0.1, 0.1])).astype(np.float32)
    assert parser(logits, threshold=0.59) is not None
    assert parser(logits, threshold=0.61) is None


@needs_compiler
def test_what_is_no_answer_is_said_and_given_none(
    parser: Parser, capfd: pytest.CaptureFixture[str]
) -> None:
    fine = np.array([1, 2, 3, 4, 5], np.float32)
    for place in (0, 3):
        broken = fine.copy()
        broken[place] = np.nan
        assert parser(broken) is None
    assert parser(np.full(5, np.inf, np.float32)) is None
    assert parser(fine, dtype=HALF) is None
    assert parser(fine[:4]) is None
    assert parser(fine, name="features") is None
    assert parser(fine) is not None
    ctypes.CDLL(None).fflush(None)
    told = capfd.readouterr().err
    assert "NvDsInferParseFpetLogits: no class is given: a logit is not finite" in told
    assert len(told.splitlines()) == 1


def test_classes_without_names_have_their_index() -> None:
    source = parser_source(manifest(labels=()))
    assert '    "0",\n    "1",\n    "2",\n    "3",\n    "4",\n' in source
    assert "const unsigned int kClasses = 5;" in source
