from __future__ import annotations

import pytest

from engines.near_names import did_you_mean, near_names
from engines.targets._lookup import target_names

VERBS = ("bench", "build", "bundle", "export", "quantize", "targets")


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("RTX4090", target_names(), ["rtx-4090"]),
        ("rtx_4090", target_names(), ["rtx-4090"]),
        ("H100", target_names(), ["h100"]),
        ("jetson-orin-nano", target_names(), ["jetson-orin-nano-4gb", "jetson-orin-nano-8gb"]),
        ("exprot", VERBS, ["export"]),
        ("quant", VERBS, ["quantize"]),
        ("--bakcbone", ["--backbone", "--bit"], ["--backbone"]),
        ("fp61", ["fp16", "bf16", "int8"], ["fp16"]),
        ("vit_base_patch16_244", ["vit_base_patch16_224", "deit_tiny"], ["vit_base_patch16_224"]),
        ("zzz", VERBS, []),
        ("", VERBS, []),
        ("---", VERBS, []),
    ],
)
def test_near_names(name: str, names: list[str], near: list[str]) -> None:
    assert near_names(name, names)[: max(len(near), 1)] == near


def test_no_more_than_five_are_proposed() -> None:
    assert len(near_names("jetson", target_names())) == 5


def test_a_question_or_what_else_to_do() -> None:
    assert did_you_mean("exprt", VERBS, otherwise="no") == "did you mean 'export'?"
    assert did_you_mean("zzz", VERBS, otherwise="name one") == "name one"
