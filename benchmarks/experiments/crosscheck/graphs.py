"""The graphs of the cross-check: one export, one set of images, and what each tool makes of it.

Every tool runs in a process of its own: that bounds the memory, and ModelOpt needs packages that
would clash with ours.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions.failures import last_words
from benchmarks.experiments.crosscheck import nncf_quantize, ort_quantize
from benchmarks.experiments.crosscheck.rows import DEFAULTS, OURS
from benchmarks.experiments.natural_images import natural_set
from benchmarks.experiments.pretrained import OUTPUT
from benchmarks.experiments.subjects import MERGE_BLOCK, RUN
from engines import storage
from engines.errors import EngineError, InputError, MissingDependencyError
from engines.imaging.images import ImageSet, to_input
from engines.imaging.source import read_set
from engines.manifest import Preprocessing, read_manifest
from engines.precisions import FP8, FP16, INT8

TARGET = "rtx"
PRETRAINED = "pretrained"
"""Weights that `benchmarks.experiments.pretrained` fetches; others are in the repository."""
DIGITS = Path("examples/digits")
STAMPS = Path("examples/stamps")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

PACKAGES = ("nvidia-modelopt", "nncf", "onnx", "onnxruntime", "onnx-graphsurgeon", "torch", "numpy")
"""What a result says about that environment."""

_MODELOPT = Path(__file__).with_name("modelopt_quantize.py")
_NNCF = Path(nncf_quantize.__file__)
_NNCF_SETTINGS = {"smoothquant": DEFAULTS, "plain": "without SmoothQuant"}
_CALIBRATION_SEED, _MEASURED_SEED = 0, 1
_ORT_SETTINGS = {
    "defaults": DEFAULTS,
    "tensorrt": "as TensorRT reads it",
    "tensorrt-no-match": "as TensorRT reads it, match and adapters left alone",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to quantize.

    Attributes:
        name: For tables.
        folder: For its files.
        run: Arguments of `fpet-export export`.
        weights: "random", "trained" or "pretrained".
        calibration: Images to calibrate on, spread over them; None takes natural images.
        test: Labelled images to measure on, likewise.
        most: Images to calibrate on, at most.
    """

    name: str
    folder: str
    run: tuple[str, ...]
    weights: str
    calibration: Path | None = None
    test: Path | None = None
    most: int | None = None


METHODS = (("lora", "LoRA 32-bit"), ("adaptformer", "AdaptFormer 1-bit"))
SUBJECTS = (
    Subject(
        name="ViT-B/16",
        folder="vit-b",
        run=(RUN, "--method", "lora", "--merge-block", str(MERGE_BLOCK)),
        weights="random",
    ),
    *(
        Subject(
            name=f"digits, {title}",
            folder=f"digits-{method}",
            run=(f"{DIGITS}/runs/{method}", "--backbone", f"{DIGITS}/backbone.safetensors"),
            weights="trained",
            calibration=DIGITS / "calibration.npz",
            test=DIGITS / "test.npz",
        )
        for method, title in METHODS
    ),
    *(
        Subject(
            name=f"stamps, {title}",
            folder=f"stamps-{method}",
            run=(
                f"{STAMPS}/runs/{method}",
                "--backbone",
                f"{OUTPUT}/backbone/model.safetensors",
            ),
            weights=PRETRAINED,
            calibration=OUTPUT / "pictures/train",
            test=OUTPUT / "pictures/test",
            most=128,
        )
        for method, title in METHODS
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images are used; None takes all that there are.

    Attributes:
        calibration: Natural ones, to calibrate on.
        images: Natural ones, to measure on.
        labelled: Labelled ones, to measure on.
    """

    calibration: int = 128
    images: int = 32
    labelled: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An exported network and its images.

    Attributes:
        onnx: The float32 graph, with its manifest beside it.
        folder: Where its quantized forms go.
        calibration: What every tool calibrates on.
        measured: Other images.
    """

    onnx: Path
    folder: Path
    calibration: ImageSet
    measured: ImageSet

    @property
    def copy(self) -> Path:
        """The same graph for other tools: ModelOpt writes its input again, in other bytes."""
        return self.folder / "copy.onnx"

    @property
    def feeds(self) -> Path:
        """The calibration images as the graph takes them, by input name."""
        return self.folder / "feeds.npz"

    @property
    def shard(self) -> Path:
        """The same images as pixels."""
        return self.folder / "calibration.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way to make a typed graph.

    Attributes:
        tool: "onnxruntime", "modelopt", "nncf" or `OURS`.
        settings: For the table.
        precision: fp16, int8 or fp8.
        output: The graph.
        command: What makes it.
        made_by: Files that decide what comes out, besides the graph and the images; empty for
            what is made again every time.
    """

    tool: str
    settings: str
    precision: str
    output: Path
    command: tuple[str, ...]
    made_by: tuple[Path, ...] = ()


def prepare(subject: Subject, folder: Path, counts: Counts) -> Prepared:
    """Export a network and write its calibration images in both forms.

    Raises:
        EngineError: The export failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx = folder / "model.onnx"
    words = ("export", *subject.run, "--target", TARGET, "-o", str(folder), "--force")
    run_logged(command_line(*words), folder / "export.log")
    manifest = read_manifest(onnx)
    assert manifest.preprocessing is not None
    calibration, measured = _images(subject, manifest.preprocessing, counts)
    prepared = Prepared(onnx=onnx, folder=folder, calibration=calibration, measured=measured)
    feeds: dict[str, Any] = {
        manifest.inputs[0].name: to_input(calibration.pixels, manifest.preprocessing)
    }
    np.savez(prepared.feeds, **feeds)
    np.savez(prepared.shard, images=calibration.pixels)
    shutil.copyfile(onnx, prepared.copy)
    return prepared


def _images(
    subject: Subject, preprocessing: Preprocessing, counts: Counts
) -> tuple[ImageSet, ImageSet]:
    if subject.calibration is None or subject.test is None:
        size = preprocessing.size
        return (
            natural_set(size, counts.calibration, seed=_CALIBRATION_SEED),
            natural_set(size, counts.images, seed=_MEASURED_SEED),
        )
    return (
        read_set(subject.calibration, preprocessing, limit=subject.most),
        read_set(subject.test, preprocessing, limit=counts.labelled),
    )


def attempts(prepared: Prepared, other_python: Path) -> Iterator[Attempt]:
    """Yield what every tool is asked for, ours first.

    Args:
        prepared: What to quantize.
        other_python: Interpreter of the environment that has ModelOpt and NNCF.
    """
    folder = prepared.folder
    yield from _our_attempts(prepared)

    def words(output: Path, *options: str) -> tuple[str, ...]:
        options += ("--calibration", str(prepared.feeds), "-o", str(output))
        return (str(prepared.copy), *options)

    for precision in (INT8, FP8):
        output = folder / f"modelopt-{precision}.onnx"
        program = (str(other_python), "-I", str(_MODELOPT))
        yield Attempt(
            tool="modelopt",
            settings=DEFAULTS,
            precision=precision,
            output=output,
            command=(*program, *words(output, "--precision", precision)),
            made_by=(_MODELOPT, REQUIREMENTS),
        )
    for form in nncf_quantize.FORMS:
        output = folder / f"nncf-{form}.onnx"
        yield Attempt(
            tool="nncf",
            settings=_NNCF_SETTINGS[form],
            precision=INT8,
            output=output,
            command=(str(other_python), "-I", str(_NNCF), *words(output, "--form", form)),
            made_by=(_NNCF, REQUIREMENTS),
        )
    for form in ort_quantize.FORMS:
        output = folder / f"ort-{form}.onnx"
        module = (sys.executable, "-m", ort_quantize.__name__)
        yield Attempt(
            tool="onnxruntime",
            settings=_ORT_SETTINGS[form],
            precision=INT8,
            output=output,
            command=(*module, *words(output, "--form", form)),
            made_by=(Path(ort_quantize.__file__),),
        )


def _our_attempts(prepared: Prepared) -> Iterator[Attempt]:
    """Yield ours; each calibrates, because a stored table does not round the weights as well."""
    images = ("--calibration", str(prepared.shard), "--images", str(len(prepared.calibration)))
    for precision, preset in (
        (INT8, "vit-linear"),
        (FP8, "vit-linear"),
        (INT8, "vit-attention"),
        (FP8, "vit-attention"),
        (FP16, None),
    ):
        name = f"ours-{precision}" if preset is None else f"ours-{precision}-{preset}"
        output = prepared.folder / f"{name}.onnx"
        words = ["quantize", str(prepared.onnx), "--precision", precision]
        if preset is not None:
            words += ["--preset", preset, *images]
        yield Attempt(
            tool=OURS,
            settings=preset or DEFAULTS,
            precision=precision,
            output=output,
            command=command_line(*words, "-o", str(output), "--force"),
        )


def make(attempt: Attempt, prepared: Prepared) -> None:
    """Make a graph, unless it lies there already and was made from the same files.

    Raises:
        EngineError: The tool failed.
    """
    note = attempt.output.with_suffix(".made.json")
    inputs = (prepared.onnx, prepared.feeds, *attempt.made_by)
    made = json.dumps({"from": [storage.sha256_of(path) for path in inputs]})
    if attempt.made_by and attempt.output.exists() and note.exists() and note.read_text() == made:
        return
    note.unlink(missing_ok=True)
    run_logged(attempt.command, attempt.output.with_suffix(".log"))
    note.write_text(made)


def command_line(*words: str) -> tuple[str, ...]:
    """Return the command that runs this toolkit's command line in a process of its own."""
    return (sys.executable, "-c", "from fpet_export.cli.start import run; run()", *words)


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run a command; what it says goes to a file.

    Raises:
        EngineError: It failed.
    """
    with log.open("wb") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        raise EngineError(
            f"exit code {code}: {last_words(log)}",
            where=str(log),
            fix="read the whole log",
        )


def require_images(subject: Subject) -> None:
    """Refuse a network whose images are not here.

    Raises:
        InputError: They are not.
    """
    for path in (subject.calibration, subject.test):
        if path is not None and not path.exists():
            raise InputError(
                f"there are no images for {subject.name}",
                where=str(path),
                fix="python -m benchmarks.experiments.pretrained",
            )


def require_modelopt(python: Path) -> dict[str, str]:
    """Return the versions of the environment that has ModelOpt and NNCF.

    Raises:
        MissingDependencyError: There is no such interpreter, or it lacks one of them.
    """
    program = "import json; from importlib.metadata import version; "
    program += f"print(json.dumps({{name: version(name) for name in {PACKAGES!r}}}))"
    try:
        done = subprocess.run(
            [python, "-I", "-c", program], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise MissingDependencyError(
            f"the environment of ModelOpt and NNCF does not work: {said.strip().splitlines()[-1]}",
            where=str(python),
            fix="make crosscheck",
        ) from error
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
