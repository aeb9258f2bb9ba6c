"""Runs of the authors' code: every combination reads back, every bad one is a sentence."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.errors import CheckpointError, FpetError, TrustError, UnknownNameError, UsageError
from fpet_export.model import checkpoints
from fpet_export.model.backbones import random_weights
from fpet_export.model.checkpoints import Checkpoint, Hints, _records
from fpet_export.model.methods.lora import METHOD as LORA
from tests.fpet_export.authors_run import AuthorsRun, record, write_run
from tests.fpet_export.tiny import spec_of

METHODS = ("lora", "adaptformer")
BITS = (1, 2, 4, 8, 32)


def decode(run: AuthorsRun, text: str | None = None, **hints: Any) -> Checkpoint:
    return checkpoints.read(text or run.text, Hints(**hints)).decode(run.spec)


def assert_same(found: Checkpoint, written: Checkpoint) -> None:
    assert found.method == written.method
    assert (found.bit, found.dim, found.scale) == (written.bit, written.dim, written.scale)
    assert found.merge_block == written.merge_block
    assert set(found.head) == set(written.head)
    for name, tensor in written.head.items():
        torch.testing.assert_close(found.head[name], tensor, rtol=0, atol=0)
    assert len(found.factors) == len(written.factors)
    for ours, theirs in zip(found.factors, written.factors, strict=True):
        assert list(ours) == list(theirs)
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-8)
    assert (found.refinement is None) == (written.refinement is None)
    for ours_, theirs_ in zip(found.refinement or (), written.refinement or (), strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-6, atol=1e-8)


def refused(
    action: Callable[[], object],
    *words: str,
    kind: type[FpetError] = CheckpointError,
    exit_code: int = 3,
) -> None:
    """Check class, exit code and the words a user would search for."""
    with pytest.raises(FpetError) as caught:
        action()
    assert type(caught.value) is kind, caught.value
    assert caught.value.exit_code == exit_code
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"
    assert caught.value.fix


# -- what is written comes back --------------------------------------------------------------


@pytest.mark.parametrize("merge_block", [1, None])
@pytest.mark.parametrize("bit", BITS)
@pytest.mark.parametrize("method", METHODS)
def test_every_combination_reads_back(
    method: str, bit: int, merge_block: int | None, tmp_path: Path
) -> None:
    run = write_run(tmp_path, method, bit=bit, dim=8, merge_block=merge_block)

    found = decode(run)

    assert_same(found, run.written)
    assert found.quality == "trained"
    assert set(found.files) >= {run.pth, run.params, run.config}


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bit", [1, 2, 4, 8])
def test_the_merge_block_is_found_from_the_bytes(
    method: str, bit: int, block: int, tmp_path: Path
) -> None:
    run = write_run(tmp_path, method, bit=bit, dim=24, merge_block=block, params=False)

    found = decode(run)

    assert_same(found, run.written)
    assert "bytes" in found.facts["merge block"].source


@pytest.mark.parametrize("text", ["folder", "stem", "pth"])
def test_a_run_can_be_named_in_three_ways(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    names = {"folder": str(tmp_path), "stem": run.text, "pth": str(run.pth)}

    assert_same(decode(run, names[text]), run.written)


def test_a_name_with_dots_and_brackets_is_a_name(tmp_path: Path) -> None:
    run = write_run(tmp_path, name="cifar.v2[a]")

    assert_same(decode(run), run.written)


def test_a_32_bit_run_takes_its_merge_block_from_the_option(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32, params=False)

    found = decode(run, merge_block=1)

    assert_same(found, run.written)
    assert found.facts["merge block"].source == "--merge-block"


def test_options_stand_in_for_a_missing_yaml(tmp_path: Path) -> None:
    run = write_run(tmp_path, "adaptformer", bit=4, config=False, params=False)

    found = decode(run, method="adaptformer", bit=4, rank=8, scale=0.5)

    assert_same(found, run.written)


def test_params_sh_stands_in_for_a_missing_yaml(tmp_path: Path) -> None:
    run = write_run(tmp_path, "adaptformer", bit=4, config=False)

    assert_same(decode(run), run.written)


def test_a_command_line_over_several_lines_is_read_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    run.params.write_text("python train.py \\\n--method lora \\\n  --dim 8 \\\n--r_layer 1\n")

    found = decode(run)

    assert found.merge_block == 1
    assert found.facts["merge block"].source == "params.sh"


def test_a_wider_head_is_another_class_count(tmp_path: Path) -> None:
    run = write_run(tmp_path)

    assert decode(run).facts["classes"].value == 5


def test_the_head_width_is_revealed_by_the_refinement(tmp_path: Path) -> None:
    run = write_run(tmp_path, spec=spec_of(heads=4))

    assert checkpoints.read(run.text).head_width(3, 64) == (16, run.bin.name)


def test_every_fact_names_its_source(tmp_path: Path) -> None:
    run = write_run(tmp_path)

    facts = decode(run).facts

    settings = {"method", "bit", "dim", "scale"}
    assert set(facts) == settings | {"classes", "merge block", "decode"}
    assert all(fact.source for fact in facts.values())


def test_a_stream_is_the_records_in_traversal_order(tmp_path: Path) -> None:
    run = write_run(tmp_path, "lora", bit=1, dim=8, merge_block=1)
    layout = _records.StreamLayout(layers=tuple(LORA.layers(64, 8)), depth=3, bits=1, head_width=32)

    names = [(block, layer.name) for block, layer, _ in layout.records(1)]

    per_block = [f"attn.lora_{part}.adapter_{way}" for part in "qv" for way in ("down", "up")]
    extra = ["refinement.adapter_down", "refinement.adapter_up"]
    assert [name for _, name in names] == per_block * 2 + extra + per_block
    assert [block for block, _ in names] == [0] * 4 + [1] * 6 + [2] * 4
    assert len(run.bin.read_bytes()) == 12 * (64 * 8 // 8 + 8) + 2 * (32 * 32 // 8 + 8)


def test_the_published_sizes_of_a_vit_b() -> None:
    def size(method: str, bits: int, dim: int) -> int:
        from fpet_export.model import methods

        layers = tuple(methods.load(method).layers(768, dim))
        layout = _records.StreamLayout(layers=layers, depth=12, bits=bits, head_width=64)
        return layout.adapter_bytes() + _records.refinement_bytes(64)

    assert _records.refinement_bytes(64) == 528
    assert size("adaptformer", 1, 32) == size("adaptformer", 4, 8) == 74_448
    assert size("adaptformer", 2, 8) == 37_584
    assert size("adaptformer", 8, 8) == 148_176
    assert size("lora", 1, 32) == 148_368
    assert size("lora", 2, 8) == 74_640
    assert size("lora", 8, 8) == 295_824


# -- the merge block is settled, or what would settle it is named ------------------------------


def test_a_32_bit_run_without_params_sh_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32, params=False)

    refused(lambda: decode(run), "which block", "params.sh", "--merge-block")


@pytest.mark.parametrize("bit", [1, 32])
@pytest.mark.parametrize("hint", [0, 2, "none"])
def test_an_option_that_contradicts_params_sh_is_refused(
    bit: int, hint: Any, tmp_path: Path
) -> None:
    run = write_run(tmp_path, bit=bit)

    refused(lambda: decode(run, merge_block=hint), "merge block", "params.sh", "--merge-block")


@pytest.mark.parametrize("hint", [0, 2, "none"])
def test_an_option_that_contradicts_the_bytes_is_refused(hint: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, params=False)

    refused(lambda: decode(run, merge_block=hint), "merge block", "--merge-block")


def test_params_sh_that_contradicts_the_bytes_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.params.write_text(run.params.read_text().replace("--r_layer 1", "--r_layer 2"))

    refused(lambda: decode(run), "merge block", "params.sh", "bytes")


@pytest.mark.parametrize("layer", ["0", "3", "12", "False"])
def test_params_sh_that_switches_merging_off_contradicts_a_refinement(
    layer: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, bit=32)
    run.params.write_text(run.params.read_text().replace("--r_layer 1", f"--r_layer {layer}"))

    refused(lambda: decode(run), "refinement", "params.sh")


def test_a_merge_block_without_a_refinement_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, merge_block=None, params=False)

    refused(lambda: decode(run, merge_block=1), "merge block", "--merge-block", "refinement")


def test_a_32_bit_run_that_lost_its_bin_is_refused_by_params_sh(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    run.bin.unlink()

    refused(lambda: decode(run), "merge block", "params.sh", "no refinement")


@pytest.mark.parametrize("layer", ["six", "-1", "", "1.5"])
def test_a_merge_block_that_is_no_number_is_refused(layer: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    run.params.write_text(f"python train.py --r_layer {layer}")

    refused(lambda: decode(run), "r_layer", "whole number")


@pytest.mark.parametrize("block", [3, 12, -1])
def test_a_merge_block_past_the_end_is_refused(block: int, tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32, params=False)

    refused(lambda: decode(run, merge_block=block), "0 to 2", "--merge-block")


# -- settings ---------------------------------------------------------------------------------


def test_a_run_without_yaml_and_params_names_the_options(tmp_path: Path) -> None:
    run = write_run(tmp_path, config=False, params=False)

    refused(lambda: decode(run), "method", "bit", "rank", "scale", "--config", "--method", "--bit")


def test_a_32_bit_run_shows_all_but_its_scale(tmp_path: Path) -> None:
    run = write_run(tmp_path, "adaptformer", bit=32, config=False, params=False)

    refused(lambda: decode(run, merge_block=1), "nothing says the scale", "--scale")
    assert_same(decode(run, merge_block=1, scale=0.5), run.written)


@pytest.mark.parametrize(
    ("hints", "word"),
    [
        ({"method": "adaptformer"}, "method"),
        ({"bit": 2}, "bit"),
        ({"rank": 4}, "dim"),
        ({"scale": 0.25}, "scale"),
    ],
    ids=str,
)
def test_an_option_that_contradicts_the_files_is_refused(
    hints: dict[str, Any], word: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, params=False)

    # method, bit and dim narrow the search for the YAML; then nothing says the scale
    (option,) = hints
    refused(lambda: decode(run, config=run.config, **hints), word, f"--{option}")


@pytest.mark.parametrize(
    ("old", "new"),
    [("--bit 1", "--bit 2"), ("--dim 8", "--dim 4"), ("--scale 0.5", "--scale 5")],
)
def test_params_sh_and_a_given_yaml_must_agree(old: str, new: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.params.write_text(run.params.read_text().replace(old, new))

    refused(lambda: decode(run, config=run.config), old[2:].split()[0], "params.sh")


@pytest.mark.parametrize("field", ["bit", "dim", "method"])
def test_a_yaml_whose_content_is_not_what_its_name_says_is_refused(
    field: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, "adaptformer", bit=1, dim=32, params=False)
    wrong = {"bit": 4, "dim": 8, "method": "lora"}[field]
    run.rewrite_config(**{field: wrong})

    refused(lambda: decode(run), field, "the name of")


def test_two_yamls_that_fit_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, params=False)
    shutil.copy(run.config, run.config.with_name("cifar-bit2-dim8.yaml"))

    refused(lambda: decode(run), "2 configurations", "--config", "--bit")


@pytest.mark.parametrize("where", ["yaml", "params.sh"])
def test_side_files_of_another_dataset_are_refused(where: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    if where == "yaml":
        run.rewrite_config(dataset="svhn")
    else:
        run.params.write_text(run.params.read_text().replace("--dataset cifar", "--dataset svhn"))

    refused(lambda: decode(run), "cifar", "svhn", "side files")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scale": "fast"}, ("scale", "float")),
        ({"scale": math.nan}, ("scale", "nan")),
        ({"scale": math.inf}, ("scale", "inf")),
        ({"bit": 3}, ("bit",)),
        ({"bit": True}, ("bit", "int")),
        ({"dim": 0}, ("dim",)),
        ({"dim": "8"}, ("dim", "int")),
        ({"num_class": 6}, ("6", "classes", "5")),
    ],
    ids=str,
)
def test_a_yaml_with_a_wrong_value_is_refused(
    fields: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    run = write_run(tmp_path, params=False)
    run.rewrite_config(**fields)

    refused(lambda: decode(run), *words)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00", "a: 2001-99-99", "[" * 3000])
def test_a_yaml_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.config.write_text(text)

    refused(lambda: decode(run), "configuration", "--config")


def test_a_given_yaml_that_is_absent_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)

    refused(lambda: decode(run, config=tmp_path / "no.yaml"), "no.yaml", "--config")


def test_a_params_sh_that_is_no_command_line_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.params.write_text("python 'train.py")

    refused(lambda: decode(run), "params.sh")


def test_two_command_lines_in_one_params_sh_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.params.write_text("train.py --r_layer 1\ntrain.py --r_layer 2\n")

    refused(lambda: decode(run), "r_layer", "'1'", "'2'")


@pytest.mark.parametrize("name", ["adaptformer-bihead", "lora_bihead", "vpt"])
def test_a_method_that_is_not_here_is_refused(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, config=False, params=False)

    refused(
        lambda: decode(run, method=name, bit=1, rank=8, scale=1.0),
        name,
        "adaptformer, lora",
        kind=UnknownNameError,
        exit_code=2,
    )


# -- the .bin stream ---------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, 8, -100, 528])
@pytest.mark.parametrize("bit", [1, 32])
def test_a_bin_of_the_wrong_length_is_refused(bit: int, change: int, tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=bit)
    stream = run.bin.read_bytes()
    run.bin.write_bytes(stream[:change] if change < 0 else stream + bytes(change))

    refused(lambda: decode(run), "cifar.bin", "bytes")


def test_a_wrong_length_names_the_settings_that_fit(tmp_path: Path) -> None:
    run = write_run(tmp_path, "adaptformer", bit=1, dim=32, config=False, params=False)

    refused(
        lambda: decode(run, method="lora", bit=1, rank=32, scale=1.0),
        "adaptformer bit 1 rank 32 with FPET",
        "adaptformer bit 4 rank 8 with FPET",
    )


def test_open_settings_name_those_that_fit_a_vit_b(tmp_path: Path) -> None:
    path = tmp_path / "cifar.pth"
    path.with_suffix(".bin").write_bytes(bytes(74_448))
    torch.save({"head.weight": torch.ones(5, 768), "head.bias": torch.ones(5)}, path)

    refused(
        lambda: checkpoints.read(str(tmp_path)).decode(spec_of()),
        "adaptformer bit 1 rank 32 with FPET",
        "adaptformer bit 4 rank 8 with FPET",
    )


def test_a_missing_bin_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.bin.unlink()

    refused(lambda: decode(run), "cifar.bin is missing", "1-bit")


@pytest.mark.parametrize("bit", [1, 32])
def test_an_empty_bin_is_damage_and_not_a_run_without_fpet(bit: int, tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=bit, params=False)
    run.bin.write_bytes(b"")

    refused(lambda: decode(run), "cifar.bin is empty")


def test_a_folder_in_the_place_of_the_bin_is_no_bin(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.bin.unlink()
    run.bin.mkdir()

    refused(lambda: decode(run), "cifar.bin is missing")


def test_a_stale_bin_beside_a_new_32_bit_run_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32, merge_block=None)
    stale = write_run(tmp_path / "old", bit=1)
    shutil.copy(stale.bin, run.bin)

    refused(lambda: decode(run), "cifar.bin", "bytes", "lora bit 1 rank 8 with FPET")


def test_settings_of_the_same_length_are_told_apart_by_params_sh(tmp_path: Path) -> None:
    """1 bit x 32 and 4 bit x 8 have the same records; only a side file tells them apart."""
    run = write_run(tmp_path, "adaptformer", bit=1, dim=32, config=False)

    refused(lambda: decode(run, method="adaptformer", bit=4, rank=8), "bit", "params.sh", "--bit")


def test_records_of_one_size_leave_the_merge_block_open(tmp_path: Path) -> None:
    """Here a refinement record is as long as an adapter record: every block makes sense."""
    run = write_run(tmp_path, bit=2, dim=8, params=False)

    refused(lambda: decode(run), "0 or 1 or 2", "params.sh", "--merge-block")
    assert_same(decode(run, merge_block=1), run.written)


@pytest.mark.parametrize("std", [0.0, -0.1, math.nan, math.inf, 1e9, 1e-30])
def test_a_record_with_impossible_statistics_is_refused(std: float, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    stream = bytearray(run.bin.read_bytes())
    stream[-4:] = struct.pack("<f", std)
    run.bin.write_bytes(bytes(stream))

    refused(lambda: decode(run), "blocks.2.attn.lora_v.adapter_up", "not a trained weight")


def test_codes_that_are_no_whole_bytes_are_refused(tmp_path: Path) -> None:
    spec = spec_of(width=12, heads=1)
    run = write_run(tmp_path, bit=1, dim=1, merge_block=None, spec=spec)

    refused(lambda: decode(run), "whole number of bytes", "--rank")


def test_a_wrong_merge_block_names_the_one_that_fits(tmp_path: Path) -> None:
    run = write_run(tmp_path, params=False)
    layout = _records.StreamLayout(layers=tuple(LORA.layers(64, 8)), depth=3, bits=1, head_width=32)

    with pytest.raises(CheckpointError, match="the bytes fit merge block 1"):
        _records.check_plausible(run.bin.read_bytes(), layout, 2, where="cifar.bin")


def test_a_plausible_record_has_a_finite_wide_range() -> None:
    import numpy as np

    packed, _ = record((4, 8), 1, np.random.default_rng(0))

    assert _records.plausible(packed)
    assert _records.plausible(packed[:-8] + struct.pack("<ff", 0.5, 0.41))  # |mean| / std = 1.22
    assert not _records.plausible(packed[:-8] + struct.pack("<ff", math.nan, 0.4))


# -- the .pth file -----------------------------------------------------------------------------


def head_of(run: AuthorsRun) -> dict[str, torch.Tensor]:
    return dict(run.written.head)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra.weight": torch.ones(2)}, ("extra.weight", "no known method")),
        ({"head.weight": torch.ones(5, 48)}, ("head", "width 64", "--backbone")),
        ({"head.bias": torch.ones(4)}, ("head.bias", "misshapen")),
        ({"head.weight": torch.full((5, 64), math.nan)}, ("head.weight", "NaN")),
        ({"head.bias": torch.full((5,), math.inf)}, ("head.bias", "infinity")),
        ({"head.weight": torch.ones(5, 64, dtype=torch.int32)}, ("head.weight", "int32")),
        ({"head.weight": torch.ones(())}, ("head.weight",)),
        ({"head.weight": torch.ones(0, 64), "head.bias": torch.ones(0)}, ("head.weight", "empty")),
        ({"head.weight": torch.ones(5, 64, dtype=torch.complex64)}, ("head.weight", "plain")),
        ({"head.weight": torch.ones(5, 64).to_sparse()}, ("head.weight", "plain")),
        ({"head.weight": torch.ones(5, 64, device="meta")}, ("head.weight", "plain")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_head_is_refused(
    change: dict[str, torch.Tensor], words: tuple[str, ...], tmp_path: Path
) -> None:
    run = write_run(tmp_path)
    run.rewrite_pth(head_of(run) | change)

    refused(lambda: decode(run), *words)


@pytest.mark.parametrize("name", ["head.weight", "head.bias"])
def test_a_missing_head_is_refused(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.rewrite_pth({key: t for key, t in head_of(run).items() if key != name})

    refused(lambda: decode(run), name, "missing")


def test_a_missing_block_of_a_32_bit_run_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    tensors = torch.load(run.pth)
    del tensors["blocks.2.attn.lora_v.adapter_up.weight"]
    run.rewrite_pth(tensors)

    refused(lambda: decode(run), "1 missing", "blocks.2.attn.lora_v.adapter_up.weight")


def test_nan_in_a_dense_adapter_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    tensors = torch.load(run.pth)
    tensors["blocks.1.attn.lora_q.adapter_down.weight"][0, 0] = math.nan
    run.rewrite_pth(tensors)

    refused(lambda: decode(run), "blocks.1.attn.lora_q.adapter_down.weight", "NaN")


def test_dense_adapters_in_a_low_bit_run_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=1)
    run.rewrite_pth(head_of(run) | {"blocks.0.attn.lora_q.adapter_down.weight": torch.ones(8, 64)})

    refused(lambda: decode(run), "bit", "tensors in cifar.pth")


def test_another_depth_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    longer = spec_of(depth=4)

    refused(lambda: checkpoints.read(run.text).decode(longer), "4 missing", "--backbone")


def test_a_distilled_backbone_needs_both_heads(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    distilled = spec_of(prefix=("cls", "dist"), pool="class+dist")

    refused(lambda: checkpoints.read(run.text).decode(distilled), "head_dist", "distill")


# -- files around it ---------------------------------------------------------------------------


def test_a_folder_with_two_runs_asks_which(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, name="svhn", config=False)

    refused(lambda: checkpoints.read(str(tmp_path)), "2 runs", "cifar", "svhn", "name one")


@pytest.mark.parametrize("text", ["nowhere", "nowhere/run", "file.bin", "folder"])
def test_what_is_no_run_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"x")
    (tmp_path / "folder").mkdir()

    refused(lambda: checkpoints.read(str(tmp_path / text)), "run")


@pytest.mark.parametrize("which", ["pth", "bin", "params", "config"])
def test_checksums_are_verified(which: str, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.write_checksums()
    assert_same(decode(run), run.written)
    path: Path = getattr(run, which)
    path.write_bytes(path.read_bytes() + b"\n")

    refused(lambda: decode(run), path.name, "SHA256SUMS", kind=TrustError, exit_code=10)


@pytest.mark.parametrize("which", ["bin", "params"])
def test_a_listed_file_that_is_missing_is_refused(which: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32)
    run.write_checksums()
    path: Path = getattr(run, which)
    path.unlink()

    refused(lambda: decode(run), "missing", "SHA256SUMS", kind=TrustError, exit_code=10)


def test_an_unlisted_bin_beside_checksums_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, bit=32, merge_block=None)
    run.write_checksums()
    shutil.copy(write_run(tmp_path / "old", bit=1).bin, run.bin)

    refused(lambda: decode(run), "not in SHA256SUMS", kind=TrustError, exit_code=10)


def test_checksums_that_are_none_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("cifar.bin is fine\n")

    refused(lambda: decode(run), "SHA256SUMS", "digest")


# -- random runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("merge_block", [None, 1])
def test_a_random_run_has_the_asked_shapes(method: str | None, merge_block: int | None) -> None:
    spec = spec_of()
    run = checkpoints.read("random:vit_tiny_patch16_224:3", Hints(method=method, rank=4, bit=1))
    assert run.backbone == "random:vit_tiny_patch16_224:3"

    found = checkpoints.read(
        "random:vit_tiny_patch16_224:3",
        Hints(method=method, rank=4, bit=1, merge_block=merge_block),
    ).decode(spec)

    assert found.quality == "random"
    assert found.method == (method or "none")
    assert found.merge_block == merge_block
    assert len(found.factors) == (3 if method else 0)
    assert (found.refinement is None) == (merge_block is None)


def test_a_random_run_repeats() -> None:
    first, second, other = (
        checkpoints.read(f"random:vit_tiny_patch16_224:{seed}", Hints(method="lora")).decode(
            spec_of()
        )
        for seed in (3, 3, 4)
    )
    name = "attn.lora_q.adapter_up"

    assert torch.equal(first.factors[0][name], second.factors[0][name])
    assert not torch.equal(first.factors[0][name], other.factors[0][name])


@pytest.mark.parametrize(
    ("hints", "word"),
    [
        ({"bit": 3}, "bit is 3"),
        ({"bit": 0}, "bit is 0"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": -4}, "rank is -4"),
        ({"scale": math.nan}, "scale is nan"),
        ({"config": Path("x.yaml")}, "--config"),
        ({"merge_block": 3}, "0 to 2"),
    ],
    ids=str,
)
def test_a_random_run_honours_or_refuses(hints: dict[str, Any], word: str) -> None:
    def act() -> object:
        return checkpoints.read(
            "random:vit_tiny_patch16_224:0", Hints(**({"method": "lora"} | hints))
        ).decode(spec_of())

    refused(act, word, kind=UsageError, exit_code=2)


@pytest.mark.parametrize(
    "text", ["random:", "random:vit", "random:vit:x", "random:vit:-1", f"random:vit:{2**64}"]
)
def test_a_random_name_without_a_seed_is_refused(text: str) -> None:
    refused(lambda: checkpoints.read(text).decode(spec_of()), "random:NAME:SEED")
    refused(lambda: random_weights.parse(text), "random:NAME:SEED")
