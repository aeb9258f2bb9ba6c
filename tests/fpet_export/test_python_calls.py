"""Python calls give what the command line gives, and refuse what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpet_export
from engines.errors import FpetError
from engines.manifest import Runtime, read_manifest, write_manifest
from engines.parity.finite import json_ready
from fpet_export.reporter import SILENT, Recorder, Silent
from fpet_export.workflow.quantize import QuantizeRequest
from fpet_export.workflow.quantize import quantize as run_quantize
from tests.fpet_export.command_line import Exported, call, pixels_of, write_images
from tests.fpet_export.tasks.task_files import TaskFiles


class Ear(Silent):
    """Remembers the names of the steps."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def step(self, name: str, text: str, *, passed: bool | None = True) -> None:
        self.heard.append(name)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TaskFiles(tmp_path_factory.mktemp("tasks")).out


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), pixels_of(1))[0]


def document_of(result: Any) -> Any:
    """Return a result as one reads it back from the JSON that the command line prints."""
    text = json.dumps(json_ready(result.to_json()), default=str, allow_nan=False)
    return json.loads(text)


def refusal(words: tuple[object, ...], function: Callable[[], object]) -> str:
    """Return what both refuse; it fails where they do not refuse the same."""
    told = call(*words, "--json").error()
    with pytest.raises(FpetError) as caught:
        function()
    error = caught.value
    said = {"what": error.what, "where": error.where, "fix": error.fix}
    assert told == {"class": type(error).__name__, "exit_code": error.exit_code, **said}
    return error.what


def test_compare(exported: Exported) -> None:
    run, _, backbone = exported.words

    found = fpet_export.compare(Path(run), exported.graph, backbone=backbone, limit=2)

    words = ("compare", run, exported.graph, "--backbone", backbone, "--limit", 2)
    assert document_of(found) == call(*words, "--json").document()
    assert found.out is None
    what = refusal(("compare", run), lambda: fpet_export.compare(run))
    assert what == "only one artefact was given"
    what = refusal(
        ("compare", exported.graph, exported.graph, "--heads", 3),
        lambda: fpet_export.compare(exported.graph, exported.graph, heads=3),
    )
    assert "--heads describes a run" in what


def test_predict(exported: Exported, image: Path, tasks: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")

    found = fpet_export.predict(exported.graph, image, top=2)
    with_bad = fpet_export.predict(exported.graph, image, bad, top=2, skip_bad=True)

    assert (
        document_of(found)
        == call("predict", exported.graph, image, "--top", 2, "--json").document()
    )
    assert found.unreadable == ()
    assert len(found.predictions[0].classes) == 2
    assert with_bad.predictions == found.predictions
    assert [Path(name).name for name in with_bad.unreadable] == ["bad.png"]
    refusal(("predict", exported.graph, image, bad),
            lambda: fpet_export.predict(exported.graph, image, bad))  # fmt: skip
    what = refusal(("predict", tasks, image), lambda: fpet_export.predict(tasks, image))
    assert "one, two" in what


def test_inspect(exported: Exported, tasks: Path) -> None:
    run, _, backbone = exported.words

    of_run = fpet_export.inspect(run, backbone=backbone)
    of_tasks = fpet_export.inspect(tasks)

    document = call("inspect", run, "--backbone", backbone, "--json").document()
    assert {**of_run.to_json(), "facts": None} == {**document, "facts": None}
    assert set(of_run.to_json()["facts"]) == set(document["facts"])
    assert document_of(of_tasks) == call("inspect", tasks, "--json").document()
    refusal(("inspect", run, "--backbone", backbone, "--method", "adaptformer"),
            lambda: fpet_export.inspect(run, backbone=backbone, method="adaptformer"))  # fmt: skip


def test_show(exported: Exported, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "merge.png"

    found = fpet_export.show(exported.graph, out, image=image)

    again = call("show", exported.graph, image, "-o", out, "--force", "--json").document()
    assert document_of(found) == again
    what = refusal(
        ("show", exported.graph, "-o", tmp_path / "other.png"),
        lambda: fpet_export.show(exported.graph, tmp_path / "other.png"),
    )
    assert "none was given" in what


def test_bundle_check_and_verify(exported: Exported, tmp_path: Path) -> None:
    archive, folder = tmp_path / "model.bundle.tar", tmp_path / "board"

    bundled = fpet_export.bundle(exported.graph, out=archive)
    again = call("bundle", exported.graph, "-o", archive, "--force", "--json").document()
    verified = fpet_export.verify(archive, unpack=folder)
    engine = fpet_export.build(folder / "model.onnx", target="cpu")

    assert document_of(bundled) == again
    assert verified.artefact == folder / "model.onnx"
    checked = fpet_export.check(engine.engine)  # type: ignore[union-attr]
    words = ("check", engine.engine, "--json")  # type: ignore[union-attr]
    assert document_of(checked) == call(*words).document()
    what = refusal(
        ("verify", exported.graph, "--identity", "me"),
        lambda: fpet_export.verify(exported.graph, identity="me"),
    )
    assert what == "--identity requires --signers"
    what = refusal(
        ("bundle", exported.graph, "-o", tmp_path / "model.tar"),
        lambda: fpet_export.bundle(exported.graph, out=tmp_path / "model.tar"),
    )
    assert "is not the name of a bundle" in what


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_sign(exported: Exported, tmp_path: Path) -> None:
    graph, key = exported.copy(tmp_path / "copy"), tmp_path / "key"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)

    signed = fpet_export.sign(graph, key)

    assert signed.signature.is_file()
    again = call("sign", graph, "--key", key, "--force", "--json").document()
    assert again == document_of(signed)


def test_write_triton(exported: Exported, tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"

    one = fpet_export.write_triton(exported.graph, out, instances=2)
    many = fpet_export.write_triton(tasks, tmp_path / "tasks")

    words = ("triton", exported.graph, "-o", out, "--instances", 2, "--force", "--json")
    assert document_of(one) == call(*words).document()
    again = call("triton", tasks, "-o", tmp_path / "tasks", "--force", "--json").document()
    assert document_of(many) == again
    with pytest.raises(FpetError, match="both were asked for"):
        fpet_export.write_triton(exported.graph, tmp_path / "both", cpu=True, gpus=(0,))
    with pytest.raises(FpetError, match="not a whole number from 1"):
        fpet_export.write_triton(exported.graph, tmp_path / "none", instances=0)
    assert not (tmp_path / "both").exists()


def test_write_deepstream(exported: Exported, tmp_path: Path) -> None:
    plan, out = tmp_path / "model.plan", tmp_path / "ds"
    plan.write_bytes(b"not a plan")
    runtime = Runtime(flavour="tensorrt", version="10.3.0.30", compute_capabilities=("8.7",))
    manifest = dataclasses.replace(read_manifest(exported.graph), kind="engine", runtime=runtime)
    write_manifest(plan, manifest)

    found = fpet_export.write_deepstream(plan, out, frame=(1280, 720), objects_of=2)

    words = ("deepstream", plan, "-o", out, "--frame", "1280x720", "--objects-of", 2, "--force")
    assert document_of(found) == call(*words, "--json").document()
    for wrong in ({"frame": (0, 5)}, {"gpu": -1}, {"objects_of": 0}):
        with pytest.raises(FpetError):
            fpet_export.write_deepstream(plan, tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_export_tasks(exported: Exported, tmp_path: Path) -> None:
    run, _, backbone = exported.words
    out, ear = tmp_path / "tasks", Ear()

    found = fpet_export.export_tasks(
        f"one={run}", out=out, backbone=backbone, limit=1, reporter=ear
    )
    dropped = refusal(
        ("tasks", "-o", out, "--drop", "two"),
        lambda: fpet_export.export_tasks(out=out, drop=("two",)),
    )

    assert found.index.names == ("one",)
    assert [one.name for one in found.found] == ["one"]
    assert set(found.to_json()) == {"folder", "index", "parity"}
    assert {"backbone", "graph", "one"} <= set(ear.heard)
    assert "'two' is not one of the tasks one" in dropped


def test_diagnose_and_targets() -> None:
    found = fpet_export.diagnose()
    one = fpet_export.targets("rtx")

    document = call("doctor", "--json").document()
    assert set(found.to_json()) == set(document)
    assert found.exit_code == 0
    assert document_of(one) == call("targets", "rtx", "--json").document()
    assert document_of(fpet_export.targets()) == call("targets", "--json").document()
    refusal(("targets", "rtx4090"), lambda: fpet_export.targets("rtx4090"))


def test_a_setting_that_is_none_is_refused(exported: Exported, image: Path) -> None:
    with pytest.raises(TypeError, match="tops"):
        fpet_export.predict(exported.graph, image, tops=3)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"top": "3"}, "'3' is a str, wanted int"),
        ({"top": True}, "True is a bool, wanted int"),
        ({"skip_bad": "no"}, "'no' is a str, wanted bool"),
        ({"task": 3}, "3 is a int, wanted str | None"),
        ({"provider": "gpu"}, "'gpu' is not one of cpu, cuda, tensorrt"),
    ],
)
def test_a_value_of_another_type_is_refused(
    exported: Exported, image: Path, settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(FpetError) as caught:
        fpet_export.predict(exported.graph, image, **settings)

    assert caught.value.what == what
    assert caught.value.where == next(iter(settings))


def test_numbers_out_of_range_are_refused(exported: Exported) -> None:
    wrong: list[tuple[str, Any]] = [("relative", -1), ("relative", float("nan")), ("limit", 0)]
    for name, value in wrong:
        with pytest.raises(FpetError) as caught:
            fpet_export.compare(exported.graph, exported.graph, **{name: value})
        assert caught.value.where == name
    assert fpet_export.compare(exported.graph, exported.graph, relative=0, limit=np.int64(1))


def test_files_that_are_not_there_are_told_as_on_the_command_line(
    exported: Exported, image: Path, tmp_path: Path
) -> None:
    absent, graph = tmp_path / "absent.onnx", exported.graph
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pets.pth").write_bytes(b"")
    for words, function in (
        (("predict", absent, image), lambda: fpet_export.predict(absent, image)),
        (("compare", graph, absent), lambda: fpet_export.compare(graph, absent)),
        (("check", absent), lambda: fpet_export.check(absent)),
        (("verify", graph, "--signers", absent), lambda: fpet_export.verify(graph, signers=absent)),
        (("show", absent, image, "-o", tmp_path / "x.png"),
         lambda: fpet_export.show(absent, tmp_path / "x.png", image=image)),
        (("bundle", tmp_path / "run"), lambda: fpet_export.bundle(tmp_path / "run")),
        (("triton", graph, "-o", image), lambda: fpet_export.write_triton(graph, image)),
    ):  # fmt: skip
        refusal(words, function)
    with pytest.raises(FpetError, match="no image was given"):
        fpet_export.predict(graph)


def test_an_interrupted_call_leaves_nothing_on_what_all_calls_share(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported.copy(tmp_path / "copy")
    images = tmp_path / "images"
    write_images(images, pixels_of(8))

    @contextlib.contextmanager
    def interrupted(self: Silent, text: str, total: int) -> Iterator[Callable[[int], None]]:
        assert text == "calibrate"
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Silent, "progress", interrupted)
    own = Recorder()
    for reporter in (None, own):
        with pytest.raises(KeyboardInterrupt):
            fpet_export.quantize(graph, "int8", calibration=images, reporter=reporter)
    with pytest.raises(KeyboardInterrupt):
        run_quantize(QuantizeRequest(onnx=graph, precision="int8", calibration=images))

    assert own.keeps == graph.with_name("model.int8.partial.json")
    assert Recorder().keeps is None
    assert SILENT.keeps is None


def without(packages: tuple[str, ...], program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where packages are not installed."""
    absent = f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"
    words = [sys.executable, "-c", absent + program]
    return subprocess.run(words, capture_output=True, text=True)


def test_a_package_that_is_missing_is_named(exported: Exported, tmp_path: Path) -> None:
    run, _, backbone = exported.words
    call_it = (
        f"fpet_export.export({str(run)!r}, {str(tmp_path / 'out')!r}, backbone={str(backbone)!r})"
    )

    done = without(("torch",), f"import fpet_export\n{call_it}")

    assert "MissingDependencyError: the package 'torch' is not installed" in done.stderr
    assert "pip install" in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_engines_are_compared_without_onnx(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path / "copy")
    engine = str(fpet_export.build(graph, target="cpu").engine)  # type: ignore[union-attr]
    program = "import fpet_export\nprint(fpet_export.compare({!r}, {!r}).table.rows[0].passed)"

    done = without(("onnx", "torch"), program.format(engine, engine))
    of_a_graph = without(("onnx", "torch"), program.format(str(graph), engine))

    assert done.stdout == "True\n", done.stderr
    assert "the package 'onnx' is not installed" in of_a_graph.stderr


def test_names_are_judged_before_the_long_pass(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line and Python say the same, before a run is loaded or an engine opened."""
    run, _, backbone = exported.words
    out, graph = tmp_path / "out", exported.graph
    monkeypatch.setattr("fpet_export.stages.load", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setattr("engines.engine.open_engine", lambda *_, **__: pytest.fail("opened"))

    what = refusal(
        ("bench", graph, "--peers", "torch"), lambda: fpet_export.bench(graph, peers=("torch",))
    )
    assert "'torch' is not one of" in what
    what = refusal(
        ("bench", graph, "--power-mode", "25W"), lambda: fpet_export.bench(graph, power_mode="25W")
    )
    assert "power modes with names are a Jetson's" in what
    what = refusal(
        ("bench", graph, "--clocks", "lock"), lambda: fpet_export.bench(graph, clocks="lock")
    )
    assert "jetson_clocks, which this machine does not have" in what
    words = ("deploy", run, "--backbone", backbone, "-o", out)
    what = refusal(
        (*words, "--peers", "torch"),
        lambda: fpet_export.deploy(run, out, backbone=backbone, peers=("torch",)),
    )
    assert "'torch' is not one of" in what
    words = ("export", run, "--backbone", backbone, "-o", out)
    for option, name, value in (
        ("--target", "target", "rtx-4091"),
        ("--opset", "opset", 99),
        ("--precision", "precision", "fp8"),
    ):
        settings: dict[str, Any] = {"backbone": backbone, name: value}
        refusal((*words, option, value), lambda: fpet_export.export(run, out, **settings))  # noqa: B023
    assert not out.exists()


def test_too_few_images_to_calibrate_on_are_refused_before_a_graph_is_written(
    exported: Exported, tmp_path: Path
) -> None:
    run, _, backbone = exported.words
    out, few = tmp_path / "out", tmp_path / "few"
    write_images(few, pixels_of(3))
    words = ("export", run, "--backbone", backbone, "-o", out, "--precision", "int8")

    what = refusal(
        (*words, "--calibration", few),
        lambda: fpet_export.export(run, out, backbone=backbone, precision="int8", calibration=few),
    )

    assert what == "3 images for a calibration, wanted 8 or more"
    assert not out.exists()


def test_an_empty_path_is_not_the_current_folder(exported: Exported) -> None:
    graph = exported.folder / "model.onnx"
    for call_it in (
        lambda: fpet_export.predict(graph, ""),
        lambda: fpet_export.predict("", graph),
        lambda: fpet_export.build(graph, target="cpu", out=""),
        lambda: fpet_export.compare(graph, graph, data=""),
        lambda: fpet_export.export("", exported.folder / "new"),
    ):
        with pytest.raises(FpetError, match="empty") as caught:
            call_it()
        assert caught.value.exit_code == 2


def test_a_measurement_of_nothing_is_refused() -> None:
    with pytest.raises(FpetError, match="nothing to measure"):
        fpet_export.bench()
