"""Folders of tasks: each gives the answers of its own export, whatever it shares the graph with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines.engine import build
from engines.errors import CheckpointError, ExportError, UsageError
from engines.manifest import read_manifest
from engines.tasks.delta import read_delta
from engines.tasks.open_tasks import open_tasks
from fpet_export.model.adapt import adapt
from fpet_export.model.fingerprint import fingerprint
from fpet_export.model.methods import Bypass, lora
from fpet_export.tasks.export import export_tasks
from fpet_export.tasks.options import TaskOptions
from tests.fpet_export.tasks.task_folders import MIXED, TaskFolder, run_of, single_logits, write
from tests.fpet_export.tiny import CLASSES, backbone_of, images_of, relative, spec_of

Requests = dict[str, dict[str, Any]]

CLOSE = 5e-6
"""Ten times what was measured: the low-rank product and the folded weight round differently."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    return write(tmp_path_factory.mktemp("tasks"))


def test_every_task_answers_as_its_own_export(mixed: TaskFolder, tmp_path: Path) -> None:
    images = images_of(spec_of(), 1)
    found = {}
    with open_tasks(mixed.path) as tasks:
        for name, run in mixed.runs.items():
            found[name] = tasks.task(name).run({"images": images})["logits"]
            assert relative(found[name], single_logits(run, tmp_path, images)) < CLOSE
    assert relative(found["lora8"], found["probe"]) > 1e-2  # negative control: the tasks differ


def test_one_graph_serves_methods_and_ranks_on_a_cpu(mixed: TaskFolder) -> None:
    assert [structure.graph.file for structure in mixed.index.structures] == [
        "backbone.merge1.onnx"
    ]
    graph = onnx.load(str(mixed.path / "backbone.merge1.onnx")).graph
    inputs = {value.name for value in graph.input}
    constants = {tensor.name for tensor in graph.initializer}

    assert {wanted.name for wanted in mixed.index.structures[0].inputs} < inputs
    assert not inputs & constants


def test_a_plan_s_graph_takes_folded_weights_of_fixed_extents(tmp_path: Path) -> None:
    folder = write(tmp_path, target="rtx")
    images = images_of(spec_of(), 1)

    lora_graph = folder.index.structures[0]
    shapes = {wanted.name: wanted.shape for wanted in lora_graph.inputs}
    assert shapes["blocks.0.attn.qkv.weight"] == (64, 192)
    assert all(isinstance(extent, int) for shape in shapes.values() for extent in shape)
    with open_tasks(folder.path) as tasks:
        for name, run in folder.runs.items():
            found = tasks.task(name).run({"images": images})["logits"]
            assert relative(found, single_logits(run, tmp_path, images, target="rtx")) < CLOSE


def test_fewer_classes_than_the_plan_s_graph_has_are_cut_out(tmp_path: Path) -> None:
    spec = spec_of()
    backbone = backbone_of(spec)
    few, many = run_of(spec, backbone, seed=1), run_of(spec, backbone, seed=2)
    head = {name: tensor[:3] for name, tensor in few.checkpoint.head.items()}
    checkpoint = dataclasses.replace(few.checkpoint, head=head)
    few = dataclasses.replace(few, checkpoint=checkpoint, model=adapt(backbone, checkpoint))
    export_tasks({"few": few, "many": many}, tmp_path, TaskOptions(target="rtx"))
    images = images_of(spec, 1)

    with open_tasks(tmp_path) as tasks:
        found = tasks.task("few").run({"images": images})["logits"]
        assert found.shape == (1, 3)
        assert tasks.task("few").outputs[0].shape == (1, 3)
        assert tasks.task("many").outputs[0].shape == (1, CLASSES)
    assert relative(found, single_logits(few, tmp_path, images, target="rtx")) < CLOSE


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"prefix": ("cls", "dist"), "pool": "class+dist"}, id="distilled"),
        pytest.param({"pool": "mean", "pool_norm": True}, id="mean"),
    ],
)
def test_other_heads(tmp_path: Path, spec: dict[str, Any]) -> None:
    network = spec_of(**spec)
    requests: Requests = {"one": {"seed": 1}, "two": {"seed": 2, "method": "adaptformer"}}
    folder = write(tmp_path, requests, spec=network)
    images = images_of(network, 1)

    with open_tasks(folder.path) as tasks:
        for name, run in folder.runs.items():
            found = tasks.task(name).run({"images": images})["logits"]
            assert relative(found, single_logits(run, tmp_path, images)) < CLOSE


def test_runs_that_merge_elsewhere_get_a_graph_of_their_own(tmp_path: Path) -> None:
    requests: Requests = {"merged": {"seed": 1}, "plain": {"seed": 2, "merge_block": None}}
    folder = write(tmp_path, requests)
    images = images_of(spec_of(), 1)

    assert [s.merge_block for s in folder.index.structures] == [1, None]
    with open_tasks(folder.path) as tasks:
        for name, run in folder.runs.items():
            found = tasks.task(name).run({"images": images})["logits"]
            assert relative(found, single_logits(run, tmp_path, images)) < CLOSE


def test_dynamic_batches(tmp_path: Path) -> None:
    folder = write(tmp_path, {"one": MIXED["lora8"]}, batch=(1, 4))
    images = images_of(spec_of(), 3)

    with open_tasks(folder.path) as tasks:
        found = tasks.task("one").run({"images": images})["logits"]
    assert found.shape == (3, CLASSES)
    expected = single_logits(folder.runs["one"], tmp_path, images, batch=(1, 4))
    assert relative(found, expected) < CLOSE


def test_low_bit_layers_stay_low_bit_and_give_the_same_weights(mixed: TaskFolder) -> None:
    delta = read_delta(mixed.path / "tasks/adapt16.safetensors")
    size = (mixed.path / "tasks/adapt16.safetensors").stat().st_size
    head, refinement = CLASSES * 65 * 4, 2 * (32 * 32 // 8 + 8)
    adapters = 3 * 2 * (64 * 16 // 8 + 8)
    assert size < head + adapters + refinement + 1200  # the names and shapes
    for block, factors in enumerate(mixed.runs["adapt16"].checkpoint.factors):
        for name, weight in factors.items():
            np.testing.assert_array_equal(delta.weight(f"blocks.{block}.{name}"), weight.numpy())


def test_half_precision_factors_state_their_error(tmp_path: Path) -> None:
    requests = {name: MIXED[name] for name in ("lora8", "adapt16")}
    folder = write(tmp_path / "half", requests, half="fp16")
    exact = write(tmp_path / "exact", requests)
    facts = {
        name: read_manifest(tmp_path / f"half/tasks/{name}.safetensors").task for name in requests
    }
    images = images_of(spec_of(), 1)

    assert facts["lora8"] is not None and facts["adapt16"] is not None
    assert facts["lora8"].half == "fp16" and 1e-5 < facts["lora8"].factor_error < 2**-11
    assert facts["adapt16"].half == "fp32" and facts["adapt16"].factor_error == 0
    with open_tasks(folder.path) as half, open_tasks(exact.path) as full:
        rounded, wanted = (
            tasks.task("lora8").run({"images": images})["logits"] for tasks in (half, full)
        )
    assert 1e-6 < relative(rounded, wanted) < 2e-3
    large, small = (
        (path / "tasks/lora8.safetensors").stat().st_size for path in (exact.path, folder.path)
    )
    assert small < 0.6 * large


def test_runs_of_different_backbones_are_refused(tmp_path: Path) -> None:
    spec = spec_of()
    runs = {
        "one": run_of(spec, backbone_of(spec, 0)),
        "two": run_of(spec, backbone_of(spec, 1), seed=2),
    }
    with pytest.raises(CheckpointError, match="'two' was tuned on another backbone"):
        export_tasks(runs, tmp_path)
    same = {"one": runs["one"], "two": run_of(spec, backbone_of(spec, 0), seed=2)}
    export_tasks(same, tmp_path)  # another object with the same weights is the same backbone


def test_runs_of_different_pixels_are_refused(tmp_path: Path) -> None:
    one, two = run_of(seed=1), run_of(seed=2)
    two = dataclasses.replace(
        two, preprocessing=dataclasses.replace(two.preprocessing, mean=(0.5, 0.5, 0.5))
    )
    with pytest.raises(
        CheckpointError, match=r"prepares images differently from 'one': mean \(0.5"
    ):
        export_tasks({"one": one, "two": two}, tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a task"):
        export_tasks({name: run_of()}, tmp_path)


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="differ in case alone"):
        export_tasks({"Cifar": run_of(), "cifar": run_of()}, tmp_path)


def test_a_precision_that_the_target_does_not_run_is_refused(tmp_path: Path) -> None:
    options = TaskOptions(target="cpu", precision="fp16")
    with pytest.raises(UsageError, match="cpu runs no graph that is typed fp16"):
        export_tasks({"one": run_of()}, tmp_path, options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_tasks_is_not_overwritten(mixed: TaskFolder) -> None:
    with pytest.raises(UsageError, match="exists already"):
        export_tasks(mixed.runs, mixed.path)


def test_a_method_that_changes_the_keys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = [Bypass(down="attn.lora_q.adapter_down", up="attn.lora_q.adapter_up", onto="key")]
    monkeypatch.setattr(lora.Lora, "bypasses", lambda self: key)
    with pytest.raises(ExportError, match="lora changes the keys"):
        export_tasks({"one": run_of()}, tmp_path)


def test_a_wrong_recipe_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = [
        Bypass(down="attn.lora_v.adapter_down", up="attn.lora_q.adapter_up", onto="query"),
        Bypass(down="attn.lora_q.adapter_down", up="attn.lora_v.adapter_up", onto="value"),
    ]
    monkeypatch.setattr(lora.Lora, "bypasses", lambda self: swapped)
    with pytest.raises(ExportError, match="0 times among the graph's constants"):
        export_tasks({"one": run_of()}, tmp_path)


def test_the_fingerprint_follows_every_weight_and_not_the_head() -> None:
    spec = spec_of()
    backbone = backbone_of(spec)
    first = fingerprint(backbone)
    weights = {name: tensor.clone() for name, tensor in backbone.weights.items()}
    weights["head.weight"] += 1
    assert fingerprint(dataclasses.replace(backbone, weights=weights)) == first
    weights["blocks.1.attn.proj.bias"][3] += 1e-3
    assert fingerprint(dataclasses.replace(backbone, weights=weights)) != first
    other = dataclasses.replace(backbone, spec=dataclasses.replace(spec, heads=4))
    assert fingerprint(other) != first


def test_force_leaves_nothing_of_the_folder_before(tmp_path: Path) -> None:
    old = {"old": MIXED["lora8"], "kept": MIXED["adapt16"]}
    write(tmp_path, old)
    (tmp_path / "tasks/notes.txt").write_text("not ours")
    engine = build(tmp_path / "backbone.merge1.onnx", target="cpu")
    with pytest.raises(UsageError, match="exists already"):
        write(tmp_path, {"kept": MIXED["lora4"]})
    assert engine.exists()

    folder = write(tmp_path, {"kept": MIXED["lora4"]}, force=True)

    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert found == [
        "backbone.merge1.manifest.json",
        "backbone.merge1.onnx",
        "tasks.json",
        "tasks/kept.manifest.json",
        "tasks/kept.safetensors",
        "tasks/notes.txt",
    ]
    images = images_of(spec_of(), 1)
    with open_tasks(tmp_path) as tasks:
        answer = tasks.task("kept").run({"images": images})["logits"]
    assert relative(answer, single_logits(folder.runs["kept"], tmp_path, images)) < CLOSE


def test_force_replaces_a_folder_with_a_damaged_index(tmp_path: Path) -> None:
    write(tmp_path, {"one": MIXED["lora8"]})
    (tmp_path / "tasks.json").write_text("{")
    write(tmp_path, {"one": MIXED["lora8"]}, force=True)
    with open_tasks(tmp_path) as tasks:
        assert tasks.names == ("one",)


@pytest.mark.parametrize("layout", ["uint8-nhwc", "uint8-nchw"])
def test_raw_pixels(tmp_path: Path, layout: str) -> None:
    folder = write(tmp_path, {"one": MIXED["lora8"]}, input=layout)
    pixels = images_of(spec_of(), 1)
    raw = np.rint(pixels * 255).astype(np.uint8)
    feed = raw.transpose(0, 2, 3, 1) if layout == "uint8-nhwc" else raw

    with open_tasks(folder.path) as tasks:
        found = tasks.task("one").run({"images": feed})["logits"]
    assert relative(found, single_logits(folder.runs["one"], tmp_path, pixels)) < CLOSE
