"""`inspect`: every fact with its source, tokens and MACs a block, what folds, hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fpet_export.model import cost
from fpet_export.model.merge_plan import NOWHERE, merge_plan
from tests.fpet_export.command_line import Exported, call, write_files


def test_facts_come_with_their_sources(exported: Exported) -> None:
    document = call("inspect", *exported.words, "--json").document()

    config = exported.run.config.name
    assert document["facts"] == {
        "method": {"value": "lora", "source": config},
        "bit": {"value": 1, "source": config},
        "dim": {"value": 8, "source": config},
        "scale": {"value": 0.5, "source": config},
        "classes": {"value": 5, "source": "the shape of head.weight"},
        "merge block": {"value": 1, "source": "params.sh"},
        "decode": {
            "value": "plain",
            "source": "the authors' code, whose loaders only convert an image to RGB",
        },
        "backbone heads": {"value": 2, "source": "config.json"},
        "backbone image": {"value": "16x16", "source": "img_size in config.json"},
        "backbone pool": {"value": "class", "source": "config.json"},
        "backbone activation": {"value": "gelu", "source": "config.json"},
        "backbone norm epsilon": {"value": 1e-6, "source": "config.json"},
        "normalisation": {
            "value": "none",
            "source": "the authors' FPET code (timm 0.4.12), which only divides pixels by 255",
        },
    }
    assert document["backbone"] == {"source": "backbone.safetensors"}


def test_tokens_and_macs_are_those_of_the_closed_form(exported: Exported) -> None:
    document = call("inspect", *exported.words, "--json").document()

    spec = exported.run.spec
    macs = cost.macs(spec, merge_plan(spec, "fpet@1"))
    assert document["tokens"] == [17, 9, 9]
    assert document["macs"] == {
        "by_part": macs,
        "total": sum(macs),
        "without_merging": sum(cost.macs(spec, merge_plan(spec, NOWHERE))),
    }


def test_every_file_is_hashed(exported: Exported) -> None:
    files = call("inspect", *exported.words, "--json").document()["files"]

    assert {Path(name).name for name in files} == {
        "cifar.pth",
        "cifar.bin",
        "params.sh",
        exported.run.config.name,
        "backbone.safetensors",
        "config.json",
    }
    for name, digest in files.items():
        assert digest == hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_people_see_the_facts_and_the_next_command(exported: Exported) -> None:
    done = call("inspect", *exported.words)

    assert done.out == "cifar\n"
    assert "1 (params.sh)" in done.err
    assert "everything folds" in done.err
    assert "sha256sum FILES > SHA256SUMS" in done.err
    assert f"fpet-export export {exported.run.text} --backbone {exported.backbone}" in done.err


def test_options_are_facts_too_and_reach_the_next_command(tmp_path: Path) -> None:
    run = write_files(tmp_path, params=False, bit=32, method="adaptformer")
    words = (run.text, "--backbone", tmp_path / "backbone.safetensors", "--merge-block", "2")

    document = call("inspect", *words, "--json").document()
    printed = call("inspect", *words, "--image", "16x16", "--normalisation", "half").err

    assert document["facts"]["merge block"] == {"value": 2, "source": "--merge-block"}
    assert document["stays_in_graph"] == [f"blocks.{i}.adapter_mlp" for i in range(3)]
    assert document["tokens"] == [17, 17, 9]
    assert "--merge-block 2 --image 16x16 --normalisation half -o out" in printed


@pytest.mark.parametrize("block", ["3", "12"])
def test_a_merge_block_beyond_the_last_is_refused(block: str, tmp_path: Path) -> None:
    run = write_files(tmp_path, params=False, bit=32)

    done = call(
        "inspect", run.text, "--backbone", tmp_path / "backbone.safetensors",
        "--merge-block", block, "--json",
    )  # fmt: skip

    assert done.code in (2, 3)
    assert block in done.error()["what"]


def test_a_run_without_a_backbone_says_which_it_wants(exported: Exported) -> None:
    done = call("inspect", exported.run.text, "--json")

    assert done.code == 3
    assert done.error()["class"] == "CheckpointError"
    assert "vit_test_patch4_16" in done.error()["what"]
    assert "--backbone" in done.error()["fix"]


def test_tokens_of_another_merge_are_known_before_an_export(exported: Exported) -> None:
    done = call("inspect", *exported.words, "--merge", "tome:r=3", "--json")

    document = done.document()
    assert document["tokens"] == [14, 11, 11]
    assert document["facts"]["merge"] == {"value": "tome:r=3", "source": "--merge"}
    assert "merge block" not in document["facts"]
    assert "--merge tome:r=3" in call("inspect", *exported.words, "--merge", "tome:r=3").err


def test_inspect_searches_for_no_merge(exported: Exported) -> None:
    done = call("inspect", *exported.words, "--merge", "auto")

    assert done.code == 2
    assert "search with export or deploy" in done.err
