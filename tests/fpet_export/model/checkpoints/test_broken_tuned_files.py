"""Every tensor of every kind of tuned file, broken in every way: a named error, never a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import fpet_export
from engines.errors import CheckpointError
from tests.fpet_export.model.checkpoints import (
    test_adaptformer_model,
    test_adept,
    test_consolidator,
    test_convpass,
    test_dyt,
    test_fact,
    test_loralib,
    test_noah,
    test_overlay,
    test_repadapter,
    test_ssf,
    test_vpt,
)
from tests.fpet_export.model.checkpoints.tuned_files import (
    MUTATIONS,
    SAID,
    Mutation,
    Tensors,
    backbone,
    head,
    save,
)

_A_FEW = 12
"""Cases of each kind that every run of the tests takes; `--slow` takes all."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file: what is in it, what the user says, and tensors that may have more rows."""

    tensors: Callable[[], Tensors]
    said: dict[str, Any]
    brings_backbone: bool = False
    any_length: frozenset[str] = frozenset()


KINDS = {
    "ssf": Kind(test_ssf.whole, {}, brings_backbone=True),
    "fact-tt": Kind(lambda: test_fact.tuned("tt") | head(), {"scale": 1.0}),
    "fact-tk": Kind(lambda: test_fact.tuned("tk") | head(), {"scale": 1.0}),
    "repadapter": Kind(lambda: test_repadapter.tuned() | head(), {"scale": 1.0}),
    "consolidator": Kind(
        lambda: test_consolidator.whole(test_consolidator.tuned()),
        {"channel_shuffle": "off"},
        brings_backbone=True,
    ),
    "loralib": Kind(lambda: test_loralib.of_merged(2) | head(), {"alpha": 8.0, "qkv_slots": "qv"}),
    "lora-vit": Kind(test_loralib.of_lora_vit, {"alpha": 8.0}),
    "bitfit": Kind(lambda: test_overlay.KINDS["bitfit"] | head(), {}),
    "layernorm": Kind(lambda: test_overlay.KINDS["layernorm"] | head(), {}),
    "adaptformer": Kind(
        lambda: (
            test_adaptformer_model.of_the_code(backbone())
            | test_overlay.batch_norm_head()
            | test_adaptformer_model.tuned(learned=True)
        ),
        {},
        brings_backbone=True,
    ),
    "noah": Kind(test_noah.whole, {"config": {"RETRAIN": test_noah.USED}}, brings_backbone=True),
    "convpass": Kind(lambda: test_convpass.tuned() | head(), {"scale": 1.0}),
    "dyt": Kind(lambda: test_dyt.tuned() | head(), {"scale": 1.0}),
    "adept": Kind(
        lambda: test_adept.tuned("adept") | head(), {}, any_length=frozenset({"adept.prompt"})
    ),
    "dept": Kind(
        lambda: test_adept.tuned("dept") | head(),
        {"scale": 1.0},
        any_length=frozenset({"dept.prompt"}),
    ),
    "vpt": Kind(test_vpt.whole, {}, brings_backbone=True),
    "batch norm": Kind(test_overlay.batch_norm_head, {}),
}


def said_of(kind: Kind, folder: Path) -> dict[str, Any]:
    """What the user says, with the files that it names."""
    said = dict(kind.said)
    if "config" in said:
        said["config"] = folder / "config.yaml"
        said["config"].write_text(yaml.safe_dump(kind.said["config"]))
    if not kind.brings_backbone:
        said["backbone"] = save(folder / "vit.pth", backbone())
    return said


def cases(kind: Kind) -> Iterator[tuple[Mutation, str]]:
    for name in kind.tensors():
        if not name.endswith("num_batches_tracked"):  # which is passed over
            free = name in kind.any_length
            yield from ((m, name) for m in MUTATIONS if not (free and m.name == "longer"))


def try_all(kind: Kind, folder: Path, every: int) -> list[str]:
    """Return what was accepted."""
    accepted = []
    said = said_of(kind, folder)
    for mutation, name in list(cases(kind))[::every]:
        path = save(folder / "broken.pt", mutation.change(kind.tensors(), name))
        try:
            fpet_export.load(path, **SAID, **said)
        except CheckpointError as error:
            assert error.where and error.fix
        else:
            accepted.append(f"{mutation.name}: {name}")
    return accepted


@pytest.mark.parametrize("name", KINDS)
def test_some_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    count = len(list(cases(kind)))
    every = max(1, count // _A_FEW) | 1  # odd, so that it meets every mutation
    assert try_all(kind, tmp_path, every) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_all_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    assert try_all(KINDS[name], tmp_path, 1) == []
