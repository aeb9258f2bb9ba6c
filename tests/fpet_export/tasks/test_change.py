"""Folders of tasks that change: what is there stays, and whatever fails changes nothing."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.engine import build
from engines.errors import (
    CheckpointError,
    MachineError,
    UnknownNameError,
    UsageError,
)
from engines.storage import sha256_of
from engines.tasks.folder import check_folder
from engines.tasks.index import FILE, TaskIndex, read_index
from engines.tasks.open_tasks import open_tasks
from fpet_export.model.adapt import adapt
from fpet_export.stages import Adapted
from fpet_export.tasks.change import drop_tasks, staged, write_parity
from fpet_export.tasks.options import TaskOptions
from tests.fpet_export.tasks.task_folders import TaskFolder, run_of, single_logits, write
from tests.fpet_export.tiny import backbone_of, images_of, relative, spec_of

SPEC = spec_of()
IMAGES = images_of(SPEC, 1)
REQUESTS: dict[str, dict[str, Any]] = {
    "lora8": {"method": "lora", "dim": 8, "seed": 1},
    "adapt": {"method": "adaptformer", "dim": 16, "seed": 3, "bit": 1},
}
GRAPH = "backbone.merge1.onnx"
PLAN_GRAPH = "backbone.merge1.lora.onnx"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    return write(tmp_path_factory.mktemp("tasks"), REQUESTS)


@pytest.fixture(scope="module")
def original_plan(tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    return write(tmp_path_factory.mktemp("plan"), {"lora8": REQUESTS["lora8"]}, target="rtx")


@pytest.fixture
def folder(original: TaskFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.path, tmp_path / "tasks"))


@pytest.fixture
def plan(original_plan: TaskFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original_plan.path, tmp_path / "plan"))


def add(
    folder: Path, runs: dict[str, Adapted], *, new_graphs: bool = False, force: bool = False
) -> TaskIndex:
    with staged(folder, runs, TaskOptions(force=force), new_graphs=new_graphs) as change:
        return change.commit()


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


def logits(folder: Path, name: str) -> np.ndarray:
    with open_tasks(folder) as tasks:
        return tasks.task(name).run({"images": IMAGES})["logits"]


# Adding


def test_an_added_task_answers_like_its_own_export(folder: Path, tmp_path: Path) -> None:
    before, run = files_in(folder), run_of(dim=4, seed=7)

    index = add(folder, {"third": run})

    assert index == read_index(folder)
    assert index.names == ("lora8", "adapt", "third")
    assert relative(logits(folder, "third"), single_logits(run, tmp_path, IMAGES)) < 1e-5
    after = files_in(folder)
    assert set(after) - set(before) == {
        "tasks/third.safetensors", "tasks/third.manifest.json", "parity.json",
    }  # fmt: skip
    assert {name for name in before if before[name] != after[name]} == {FILE}
    check_folder(folder)


def test_an_engine_stays_valid(folder: Path, tmp_path: Path) -> None:
    engine = build(folder / GRAPH, target="cpu")
    before, run = sha256_of(engine), run_of(dim=32, seed=8)

    add(folder, {"wide": run})

    assert sha256_of(engine) == before
    assert check_folder(folder).graphs[0].engine == engine
    assert relative(logits(folder, "wide"), single_logits(run, tmp_path, IMAGES)) < 1e-5


def test_a_task_is_replaced_with_force_alone(folder: Path, tmp_path: Path) -> None:
    run, others = run_of(dim=4, seed=9), logits(folder, "adapt")

    with pytest.raises(UsageError, match="holds a task 'lora8' already"):
        add(folder, {"lora8": run})
    add(folder, {"lora8": run}, force=True)

    assert read_index(folder).names == ("lora8", "adapt")
    assert relative(logits(folder, "lora8"), single_logits(run, tmp_path, IMAGES)) < 1e-5
    np.testing.assert_array_equal(logits(folder, "adapt"), others)
    assert {path.name for path in (folder / "tasks").glob("lora8*")} == {
        "lora8.2.safetensors", "lora8.2.manifest.json",
    }  # fmt: skip
    add(folder, {"lora8": run}, force=True)
    assert (folder / "tasks/lora8.safetensors").exists()
    assert not (folder / "tasks/lora8.2.safetensors").exists()


def test_a_task_named_like_a_later_version_keeps_its_file(folder: Path) -> None:
    run = run_of(dim=4, seed=9)
    add(folder, {"lora8.2": run})

    add(folder, {"lora8": run}, force=True)

    files = {task.name: task.delta.file for task in read_index(folder).tasks}
    assert files["lora8.2"] == "tasks/lora8.2.safetensors"
    assert files["lora8"] == "tasks/lora8.3.safetensors"


def test_two_names_that_want_one_file_get_two(folder: Path, tmp_path: Path) -> None:
    first, second = run_of(dim=4, seed=21), run_of(dim=4, seed=22)

    add(folder, {"lora8": first, "Lora8.2": second}, force=True)

    files = {task.name: task.delta.file for task in read_index(folder).tasks}
    assert files["lora8"] == "tasks/lora8.2.safetensors"
    assert files["Lora8.2"] == "tasks/Lora8.2.2.safetensors"
    assert relative(logits(folder, "lora8"), single_logits(first, tmp_path, IMAGES)) < 1e-5
    assert relative(logits(folder, "Lora8.2"), single_logits(second, tmp_path, IMAGES)) < 1e-5


def other_backbone() -> Adapted:
    return run_of(SPEC, backbone_of(SPEC, seed=1))


def other_pixels() -> Adapted:
    run = run_of()
    shifted = dataclasses.replace(run.preprocessing, mean=(0.5, 0.5, 0.5))
    return dataclasses.replace(run, preprocessing=shifted)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (other_backbone, CheckpointError, "'new' was tuned on another backbone"),
        (
            other_pixels,
            CheckpointError,
            "'new' prepares images differently from the tasks of this folder",
        ),
        (lambda: run_of(merge_block=0), UsageError, "merges after block 1, the run after block 0"),
        (lambda: run_of(merge_block=None), UsageError, "merges after block 1, the run nothing"),
    ],
    ids=["backbone", "pixels", "block", "no merge"],
)
def test_what_does_not_belong_there_changes_nothing(
    make: Callable[[], Adapted], kind: type[Exception], said: str, folder: Path
) -> None:
    before = files_in(folder)

    with pytest.raises(kind, match=said):
        add(folder, {"new": make()})

    assert files_in(folder) == before
    assert {path.name for path in folder.iterdir()} == {*before, "tasks"} - {
        name for name in before if "/" in name
    }


def test_names_that_differ_in_case_alone_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="differ in case alone"):
        add(folder, {"LORA8": run_of()})


# Graphs that do not fit


def test_a_plan_of_smaller_extents_is_said(plan: Path) -> None:
    before = files_in(plan)

    with pytest.raises(UsageError, match=r"no graph of this folder takes 'wide'") as caught:
        add(plan, {"wide": run_of(method="adaptformer", dim=16)})
    assert "has no inputs for adaptformer" in caught.value.what
    with pytest.raises(UsageError) as caught:
        add(plan, {"classes": _with_more_classes(run_of(dim=4))})
    assert "backbone.merge1.lora.onnx: the task brings" in caught.value.what
    assert "'head.weight'" in caught.value.what
    assert "--new-graph" in caught.value.fix
    assert files_in(plan) == before


def _with_more_classes(run: Adapted) -> Adapted:
    head = {name: torch.cat([tensor, tensor]) for name, tensor in run.checkpoint.head.items()}
    spec = dataclasses.replace(SPEC, classes=10)
    checkpoint = dataclasses.replace(run.checkpoint, head=head)
    backbone = dataclasses.replace(run.backbone, spec=spec)
    return dataclasses.replace(run, model=adapt(backbone, checkpoint), checkpoint=checkpoint)


def test_a_smaller_task_fits_a_plan(plan: Path, tmp_path: Path) -> None:
    run = run_of(dim=2, seed=11)

    add(plan, {"small": run})

    found = logits(plan, "small")
    assert relative(found, single_logits(run, tmp_path, IMAGES, target="rtx")) < 1e-5


def test_a_graph_of_its_own_is_asked_for(plan: Path, tmp_path: Path) -> None:
    before, run = files_in(plan), _with_more_classes(run_of(dim=4, seed=12))

    index = add(plan, {"more": run, "small": run_of(dim=2)}, new_graphs=True)

    assert [one.graph.file for one in index.structures] == [
        PLAN_GRAPH, "backbone.merge1.lora.2.onnx",
    ]  # fmt: skip
    assert [task.structure for task in index.tasks] == [0, 1, 0]
    assert (plan / "backbone.merge1.lora.2.base.safetensors").exists()
    assert {name for name in before if files_in(plan)[name] != before[name]} == {FILE}
    found = logits(plan, "more")
    assert relative(found, single_logits(run, tmp_path, IMAGES, target="rtx")) < 1e-5
    check_folder(plan)

    drop_tasks(plan, ["lora8", "small"])
    assert [path.name for path in plan.glob("*.onnx")] == ["backbone.merge1.lora.2.onnx"]
    np.testing.assert_array_equal(logits(plan, "more"), found)
    check_folder(plan)


# Dropping


def test_a_dropped_task_is_gone_and_the_others_stay(folder: Path) -> None:
    before, others = files_in(folder), logits(folder, "adapt")

    index = drop_tasks(folder, ["lora8"], command=("drop",))

    assert index == read_index(folder)
    assert index.names == ("adapt",) and index.command == ("drop",)
    np.testing.assert_array_equal(logits(folder, "adapt"), others)
    assert set(before) - set(files_in(folder)) == {
        "tasks/lora8.safetensors", "tasks/lora8.manifest.json",
    }  # fmt: skip


def test_what_cannot_be_dropped_changes_nothing(folder: Path) -> None:
    before = files_in(folder)

    with pytest.raises(UnknownNameError, match="'lora9' is not one of"):
        drop_tasks(folder, ["lora9"])
    with pytest.raises(UsageError, match="no task would be left"):
        drop_tasks(folder, ["lora8", "adapt"])

    assert files_in(folder) == before


# What stops it


def test_a_folder_that_changes_meanwhile_is_left_alone(folder: Path) -> None:
    with staged(folder, {"third": run_of(seed=5)}, TaskOptions()) as change:
        add(folder, {"other": run_of(seed=6)})
        before = files_in(folder)
        with pytest.raises(UsageError, match="changed meanwhile"):
            change.commit()

    assert files_in(folder) == before
    assert read_index(folder).names == ("lora8", "adapt", "other")


class _PowerCut(BaseException):
    pass


@pytest.mark.parametrize("verb", ["add", "replace", "drop"])
def test_it_is_the_old_folder_or_the_new_one_at_any_moment(
    verb: str, original: TaskFolder, tmp_path: Path
) -> None:
    """Every rename and every removal, in turn, is the last thing that happens."""
    run, done = run_of(dim=4, seed=13), False
    names = {
        "add": {("lora8", "adapt"), ("lora8", "adapt", "third")},
        "replace": {("lora8", "adapt")},
        "drop": {("lora8", "adapt"), ("adapt",)},
    }[verb]
    seen = set()
    for moment in range(100):
        folder = Path(shutil.copytree(original.path, tmp_path / str(moment)))
        cut = _cut_after(moment)
        try:
            _change(verb, folder, run)
            done = True
        except _PowerCut:
            pass
        cut.undo()
        seen.add(check_folder(folder).index.names)
        for name in read_index(folder).names:
            logits(folder, name)
        if done:
            break
        _change(verb, folder, run)
        check_folder(folder)
    assert done and moment > 3
    assert seen == names


def _change(verb: str, folder: Path, run: Adapted) -> None:
    if verb == "drop":
        if "lora8" in read_index(folder).names:
            drop_tasks(folder, ["lora8"])
    else:
        add(folder, {"third" if verb == "add" else "lora8": run}, force=True)


def _cut_after(moment: int) -> pytest.MonkeyPatch:
    """Let the world end after so many renames and removals."""
    left = [moment]
    patch = pytest.MonkeyPatch()
    for name in ("replace", "unlink"):
        found: Callable[..., Any] = getattr(Path, name)

        def act(self: Path, *words: Any, _found: Callable[..., Any] = found, **more: Any) -> Any:
            if left[0] == 0:
                raise _PowerCut
            left[0] -= 1
            return _found(self, *words, **more)

        patch.setattr(Path, name, act)
    return patch


def test_a_full_disk_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: Any) -> None:
        raise OSError(28, "No space left on device")

    before = files_in(folder)
    with staged(folder, {"third": run_of(seed=5)}, TaskOptions()) as change:
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(MachineError, match="No space left on device"):
            change.commit()
        monkeypatch.undo()

    assert files_in(folder) == before


def test_parity_is_that_of_the_tasks_manifests(folder: Path) -> None:
    """None of these was compared, which is no reason to fail."""
    write_parity(folder, read_index(folder))

    assert (folder / "parity.json").read_text() == "{}\n"
