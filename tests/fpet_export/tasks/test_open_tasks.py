"""Open folders of tasks: switching, threads, memory, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.engine import build
from engines.errors import EngineError, FpetError, InputError, TrustError, UnknownNameError
from engines.tasks import open_tasks as task_set
from engines.tasks.index import FILE, read_index, store, write_index
from engines.tasks.open_tasks import TaskSet, open_tasks
from tests.fpet_export.tasks.task_folders import MIXED, TaskFolder, write
from tests.fpet_export.tiny import images_of, relative, spec_of

IMAGES = images_of(spec_of(), 1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    return write(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def folder(original: TaskFolder, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(original.path, tmp_path / "tasks"))


def logits(tasks: TaskSet, name: str, images: np.ndarray = IMAGES) -> np.ndarray:
    return tasks.task(name).run({"images": images})["logits"]


@pytest.mark.parametrize("resident_bytes", [0, 10**9], ids=["one resident", "all resident"])
def test_back_to_a_task_gives_its_answers_bit_for_bit(
    original: TaskFolder, resident_bytes: int
) -> None:
    with open_tasks(original.path, resident_bytes=resident_bytes) as tasks:
        first = {name: logits(tasks, name) for name in tasks.names}
        again = {name: logits(tasks, name) for name in reversed(tasks.names)}
    for name, expected in first.items():
        np.testing.assert_array_equal(again[name], expected)
        others = [other for key, other in first.items() if key != name]
        assert all(relative(other, expected) > 1e-2 for other in others)


def test_the_weights_used_least_recently_make_room(original: TaskFolder) -> None:
    with open_tasks(original.path, resident_bytes=0) as tasks:
        for name in tasks.names:
            logits(tasks, name)
            assert tasks.resident() == (name,)
    with open_tasks(original.path, resident_bytes=10**9) as tasks:
        for name in (*tasks.names, tasks.names[0]):
            logits(tasks, name)
        assert tasks.resident() == (*tasks.names[1:], tasks.names[0])


def test_tasks_may_take_a_share_of_the_graph_by_default(
    original: TaskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = (original.path / "backbone.merge1.onnx").stat().st_size
    for share, kept in ((0.0, 1), (1.0, 4)):
        monkeypatch.setattr(task_set, "RESIDENT_SHARE", share)
        with open_tasks(original.path) as tasks:
            for name in tasks.names:
                logits(tasks, name)
            assert len(tasks.resident()) == kept
    assert graph > 400_000  # else the second half would prove nothing


@pytest.mark.parametrize("resident_bytes", [0, 10**9], ids=["one resident", "all resident"])
def test_threads_get_the_answers_of_their_own_tasks(
    original: TaskFolder, resident_bytes: int
) -> None:
    images = {name: images_of(spec_of(), 1, seed) for seed, name in enumerate(MIXED)}
    wrong: list[str] = []
    with open_tasks(original.path, resident_bytes=resident_bytes) as tasks:
        expected = {name: logits(tasks, name, images[name]) for name in tasks.names}
        start = threading.Barrier(2 * len(expected))

        def work(name: str) -> None:
            handle = tasks.task(name)
            start.wait()
            for _ in range(40):
                if not np.array_equal(
                    handle.run({"images": images[name]})["logits"], expected[name]
                ):
                    wrong.append(name)

        workers = [threading.Thread(target=work, args=(name,)) for name in expected for _ in "ab"]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_a_handle_is_an_engine(original: TaskFolder) -> None:
    with open_tasks(original.path) as tasks, tasks.task("lora8") as handle:
        assert [spec.name for spec in handle.inputs] == ["images"]
        assert handle.outputs[0].shape == (1, 5)
        assert handle.describe()["task"] == "lora8"
        assert handle.describe()["artefact"] == "backbone.merge1.onnx"
        handle.bind({"images": IMAGES})()
        with pytest.raises(InputError, match="'images' has shape"):
            handle.run({"images": IMAGES[:, :2]})
        handle.close()
        assert tasks.task("lora8").run({"images": IMAGES})["logits"].shape == (1, 5)


def test_a_closed_set_runs_nothing(original: TaskFolder) -> None:
    with open_tasks(original.path) as tasks:
        handle = tasks.task("lora8")
    tasks.close()
    with pytest.raises(EngineError, match="closed"):
        handle.run({"images": IMAGES})
    with pytest.raises(EngineError, match="the set of tasks is closed"):
        tasks.task("lora8")


def test_an_unknown_task_is_refused_with_the_nearest(original: TaskFolder) -> None:
    with open_tasks(original.path) as tasks:
        with pytest.raises(UnknownNameError, match="lora8, lora4, adapt16, probe") as caught:
            tasks.task("adapt61")
        assert caught.value.fix == "did you mean 'adapt16'?"


def test_an_engine_of_the_graph_runs_in_its_place(folder: Path) -> None:
    with open_tasks(folder) as tasks:
        expected = {name: logits(tasks, name) for name in tasks.names}
    engine = build(folder / "backbone.merge1.onnx", target="cpu")
    with open_tasks(folder) as tasks:
        assert tasks.task("lora8").describe()["artefact"] == engine.name
        for name, value in expected.items():
            assert relative(logits(tasks, name), value) < 1e-5


def test_an_engine_of_another_graph_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"lora8": MIXED["lora8"]})
    engine = build(other.path / "backbone.merge1.onnx", target="cpu")
    for file in (engine, engine.with_name("backbone.merge1.cpu.manifest.json")):
        shutil.copy(file, folder)
    with open_tasks(folder) as tasks, pytest.raises(TrustError, match="was built from"):
        tasks.task("lora8")


# -- what is refused -------------------------------------------------------------------------


def refused(folder: Path, message: str, name: str = "lora8") -> None:
    with pytest.raises(TrustError, match=message), open_tasks(folder) as tasks:
        logits(tasks, name)


def test_no_folder_of_tasks(tmp_path: Path) -> None:
    refused(tmp_path, "this is not a folder of tasks")


def test_a_delta_of_another_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    spec = spec_of(norm_eps=1e-5)
    other = write(tmp_path / "other", {"lora8": MIXED["lora8"]}, spec=spec)
    shutil.copy(other.path / "tasks/lora8.safetensors", folder / "tasks")
    refused(folder, "SHA-256 is")
    forge(folder)  # even an index that names its hash does not let it in
    refused(folder, "belongs to the backbone")


def test_a_delta_of_another_task_is_refused(folder: Path) -> None:
    shutil.copy(folder / "tasks/lora4.safetensors", folder / "tasks/lora8.safetensors")
    forge(folder)
    refused(folder, "is that of 'lora4'")


def forge(folder: Path) -> None:
    """Write an index with the hashes of whatever lies there."""
    index = read_index(folder)
    tasks = tuple(
        dataclasses.replace(task, delta=store(folder, task.delta.file)) for task in index.tasks
    )
    write_index(folder, dataclasses.replace(index, tasks=tasks))


def test_a_missing_delta_is_refused(folder: Path) -> None:
    (folder / "tasks/lora8.safetensors").unlink()
    refused(folder, "No such file")


def test_another_graph_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"lora8": MIXED["lora8"]})
    for suffix in ("onnx", "manifest.json"):
        shutil.copy(other.path / f"backbone.merge1.{suffix}", folder)
    refused(folder, "the index names")


@pytest.mark.parametrize(
    "file", ["tasks/lora8.safetensors", "tasks/adapt16.safetensors", "backbone.merge1.onnx"]
)
def test_every_flipped_bit_is_refused(folder: Path, file: str) -> None:
    content = (folder / file).read_bytes()
    name = Path(file).stem if file.startswith("tasks") else "lora8"
    for place in np.random.default_rng(0).integers(0, len(content), 25):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        (folder / file).write_bytes(flipped)
        refused(folder, "SHA-256", name)


def test_a_damaged_base_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"lora8": MIXED["lora8"]}, target="rtx").path
    base = folder / "backbone.merge1.lora.base.safetensors"
    content = bytearray(base.read_bytes())
    content[-1] ^= 1
    base.write_bytes(content)
    refused(folder, "SHA-256 is")
    base.write_bytes(content[:-4])
    refused(folder, "SHA-256 is")
    base.unlink()
    refused(folder, "No such file")


def test_a_damaged_index_is_refused(folder: Path) -> None:
    text = (folder / FILE).read_text()
    for length in range(0, len(text) - 2, 97):
        (folder / FILE).write_text(text[:length])
        refused(folder, "the index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=2), "schema 2, this version reads 1"),
        (lambda d: d["tasks"][0].update(structure=7), "names structure 7"),
        (lambda d: d["tasks"][0].update(extra=1), "unknown"),
        (lambda d: d["tasks"][0].update(name="../evil"), "cannot name a task"),
        (lambda d: d["tasks"][1].update(name="lora8"), "two runs are called 'lora8'"),
        (lambda d: d["tasks"][0]["delta"].update(file="../x"), "outside its folder"),
        (lambda d: d["tasks"][0]["delta"].update(file="/etc/passwd"), "outside its folder"),
        (lambda d: d["structures"][0]["graph"].update(file="a\\b"), "outside its folder"),
    ],
)
def test_an_index_that_lies_is_refused(
    folder: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    document = json.loads((folder / FILE).read_text())
    change(document)
    (folder / FILE).write_text(json.dumps(document))
    refused(folder, message)


def test_parts_that_do_not_match_the_delta_are_refused(folder: Path) -> None:
    document = json.loads((folder / FILE).read_text())
    lora8, _, adapt16, _ = document["tasks"]
    lora8["parts"], adapt16["parts"] = adapt16["parts"], lora8["parts"]
    (folder / FILE).write_text(json.dumps(document))
    refused(folder, "does not hold blocks.0.adapter_mlp", "lora8")
    lora8["parts"] = ["head"]
    (folder / FILE).write_text(json.dumps(document))
    refused(folder, "holds what its graph does not take", "lora8")


def test_a_refusal_leaves_the_other_tasks_alone(folder: Path) -> None:
    (folder / "tasks/lora8.safetensors").write_bytes(b"")
    with open_tasks(folder) as tasks:
        for _ in range(2):
            with pytest.raises(FpetError):
                logits(tasks, "lora8")
            assert logits(tasks, "lora4").shape == (1, 5)
