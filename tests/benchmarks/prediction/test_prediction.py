"""The roofline: what a network does, what a GPU could do, and how both become a range."""

from __future__ import annotations

import dataclasses
import math

import pytest

from benchmarks.network import Network
from benchmarks.prediction.constants import NOMINAL, START, Constants, start_of
from benchmarks.prediction.fit import Row, calibrate, fit, width_of
from benchmarks.prediction.hardware import Hardware, hardware_of, modes_of
from benchmarks.prediction.roofline import ideal_of, padded_macs, predict
from benchmarks.prediction.work import Product, parts_of
from engines.errors import UsageError
from engines.targets import Device, _lookup

VIT_B = Network(
    width=768, depth=12, heads=12, hidden=3072, patch=(16, 16), grid=(14, 14), classes=1000,
    tokens_in=197, tokens=(197,) * 12, merged_blocks=(), merge="none", last_tokens=197,
)  # fmt: skip
MERGED = dataclasses.replace(
    VIT_B, tokens=(197,) * 6 + (99,) * 6, merged_blocks=(6,), merge="fpet@6", last_tokens=99
)


def device(name: str) -> Device:
    found = _lookup.entry(name)
    assert isinstance(found, Device)
    return found


ORIN = hardware_of(device("jetson-orin-nano-8gb"), "MAXN_SUPER", "fp16")
H200 = hardware_of(device("h200"), "", "fp16")


def macs_of(network: Network) -> int:
    return sum(part.macs for part in parts_of(network, precision="fp16", batch=1))


def test_multiply_adds_are_the_published_ones() -> None:
    """17.56 GMAC plain; half of the patches less after block 6 leave 13.1 and the last MLP."""
    assert macs_of(VIT_B) == pytest.approx(17.56e9, rel=2e-3)
    assert macs_of(MERGED) == pytest.approx(13.3e9, rel=2e-2)


def test_kernels_are_those_that_tensorrt_rtx_lists() -> None:
    def kernels(network: Network, precision: str) -> int:
        return sum(part.kernels for part in parts_of(network, precision=precision, batch=1))

    assert kernels(VIT_B, "fp16") == 102
    assert kernels(MERGED, "fp16") == 111
    assert kernels(MERGED, "int8") == 123


def test_weights_are_read_once_whatever_the_batch() -> None:
    def weights(precision: str, batch: int) -> int:
        parts = parts_of(VIT_B, precision=precision, batch=batch)
        return sum(product.weight_bytes for part in parts for product in part.products)

    assert weights("fp16", 1) == weights("fp16", 64)
    assert weights("fp16", 1) == pytest.approx(172e6, rel=0.01)
    assert weights("int8", 1) == pytest.approx(86e6, rel=0.05)


def test_the_last_block_of_a_class_token_computes_less() -> None:
    alone = dataclasses.replace(VIT_B, last_tokens=1)

    last = [parts_of(one, precision="fp16", batch=1)[-2].macs for one in (alone, VIT_B)]
    assert last[0] < last[1] / 3
    assert macs_of(VIT_B) - macs_of(alone) == last[1] - last[0]


@pytest.mark.parametrize(("few", "many", "same"), [(99, 128, True), (128, 129, False)])
def test_tokens_cost_whole_tiles(few: int, many: int, same: bool) -> None:
    costs = [
        padded_macs(Product(rows=rows, inner=768, columns=768), multiprocessors=1)
        for rows in (few, many)
    ]
    assert (costs[0] == costs[1]) is same


def test_an_idle_multiprocessor_costs_as_much_as_a_busy_one() -> None:
    product = Product(rows=128, inner=64, columns=128)

    assert padded_macs(product, 1) == product.macs
    assert padded_macs(product, 132) == 132 * 64 * 64 * 64  # the smaller tile wins, 4 of 132 busy


def test_everything_takes_so_many_times_as_long() -> None:
    ideal = ideal_of(MERGED, ORIN, precision="fp16", batch=3)

    assert ideal.total_ms(NOMINAL.slower(1.7)) == pytest.approx(1.7 * ideal.total_ms(NOMINAL))
    parts = ideal.parts(NOMINAL)
    assert sum(part.total_ms for part in parts) == pytest.approx(ideal.total_ms(NOMINAL))
    assert [part.name for part in parts[:2]] == ["patches", "block 0"]


def test_a_range_holds_its_middle_and_says_what_bounds_it() -> None:
    small = predict(VIT_B, ORIN, start_of(is_board=True), precision="fp16", batch=1)
    large = predict(VIT_B, H200, START, precision="fp16", batch=1)

    assert small.low_ms < small.middle_ms < small.high_ms
    assert small.high_ms / small.low_ms == pytest.approx(START.factor**2)
    assert (small.bound, large.bound) == ("compute", "launches")


def test_merging_pays_where_computing_bounds_and_not_where_launches_do() -> None:
    def ratio(hardware: Hardware, batch: int) -> float:
        calibration = start_of(is_board=hardware.is_board)
        merged, plain = (
            predict(one, hardware, calibration, precision="fp16", batch=batch).middle_ms
            for one in (MERGED, VIT_B)
        )
        return merged / plain

    assert ratio(ORIN, 1) < 0.85
    assert ratio(H200, 1) > 1
    assert ratio(H200, 64) < 0.85


def test_eight_bits_need_their_own_peak() -> None:
    int8 = hardware_of(device("jetson-orin-nano-8gb"), "MAXN_SUPER", "int8")

    found, half = (
        predict(VIT_B, one, START, precision=name, batch=32).middle_ms
        for one, name in ((int8, "int8"), (ORIN, "fp16"))
    )
    assert found < half


@pytest.mark.parametrize(
    ("name", "mode", "precision", "what", "fix"),
    [
        ("jetson-orin-nano-8gb", "MAXN", "fp16", "has no power mode 'MAXN'", "MAXN_SUPER"),
        ("jetson-orin-nano-8gb", "7W", "fp16", "peaks in this mode are not", "MAXN_SUPER or 15W"),
        ("jetson-orin-nano-8gb", "15W", "fp8", "do not compute in FP8", "fp16 or int8"),
        ("jetson-agx-orin-64gb", "MODE_30W", "fp16", "bandwidth is not published", "ask for MAXN"),
        ("jetson-thor-t5000", "MAXN", "int8", "INT8 peak is not published", "fp16 or fp8"),
        ("h200", "MAXN", "fp16", "h200 has no power modes", "leave --power-mode out"),
    ],
)
def test_what_is_not_known_is_not_guessed(
    name: str, mode: str, precision: str, what: str, fix: str
) -> None:
    with pytest.raises(UsageError) as refused:
        hardware_of(device(name), mode, precision)

    assert what in refused.value.what
    assert fix in refused.value.fix


def test_modes_without_peaks_are_listed_with_the_reason() -> None:
    found, left = modes_of(device("jetson-agx-orin-64gb"), "fp16")

    assert [one.mode for one in found] == ["MAXN"]
    assert {one.mode for one in left} == {"MODE_50W", "MODE_30W", "MODE_15W"}
    assert all("not published" in one.reason for one in left)
    assert len(modes_of(device("jetson-orin-nano-8gb"), "fp8")[1]) == 1


TRUE = Constants(half_share=0.42, eight_bit_share=0.3, bandwidth_share=0.7, launch_us=6.5)


def rows(batches: tuple[int, ...], *, error: float = 0.0) -> list[Row]:
    found = []
    for index, batch in enumerate(batches):
        for network in (VIT_B, MERGED):
            row = Row(
                network=network, hardware=H200, precision="fp16", batch=batch, measured_ms=1.0
            )
            measured = row.ideal().total_ms(TRUE) * math.exp(error * (-1) ** index)
            found.append(dataclasses.replace(row, measured_ms=measured))
    return found


def test_a_fit_finds_the_constants_that_measurements_tell() -> None:
    found = fit(rows((1, 8, 64)), NOMINAL, spread=0.02)

    assert found.half_share == pytest.approx(TRUE.half_share, rel=0.05)
    assert found.launch_us == pytest.approx(TRUE.launch_us, rel=0.05)
    assert found.eight_bit_share == NOMINAL.eight_bit_share  # nothing was measured with 8 bits


def test_a_fit_predicts_a_batch_that_it_did_not_see() -> None:
    known = calibrate(rows((1, 8, 64)))
    (unseen, _) = rows((32,))

    fitted = predict(unseen.network, H200, known, precision="fp16", batch=32)
    before = predict(unseen.network, H200, START, precision="fp16", batch=32)

    assert known.measured == 6
    assert "6 measurements on h200" in known.source
    assert abs(math.log(fitted.middle_ms / unseen.measured_ms)) < 0.05
    assert abs(math.log(before.middle_ms / unseen.measured_ms)) > 0.1  # negative control
    assert fitted.low_ms <= unseen.measured_ms <= fitted.high_ms


def test_rows_that_contradict_each_other_widen_the_range() -> None:
    assert calibrate(rows((1, 8, 64))).factor < calibrate(rows((1, 8, 64), error=0.3)).factor


def test_a_range_holds_nine_of_ten_and_is_never_too_narrow() -> None:
    assert width_of([0.1] * 8 + [-0.4, 2.0]) == pytest.approx(math.exp(0.4))
    assert width_of([0.0]) == width_of([]) == 1.1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "ViT-B/16"),
        ({"width": 384, "heads": 6, "patch": (14, 14), "grid": (16, 16)}, "ViT-S/14"),
        ({"grid": (24, 24)}, "ViT-B/16 at 384 pixels"),
        ({"grid": (14, 28)}, "ViT-B/16 at 224x448 pixels"),
        ({"width": 100}, "ViT 100x12/16"),
    ],
)
def test_networks_have_the_names_of_the_field(changes: dict[str, object], name: str) -> None:
    assert dataclasses.replace(VIT_B, **changes).name == name  # type: ignore[arg-type]


def test_the_plain_network_keeps_every_token() -> None:
    assert MERGED.plain() == VIT_B
    assert VIT_B.plain() is VIT_B
    only_class = dataclasses.replace(MERGED, last_tokens=1)
    assert only_class.plain() == dataclasses.replace(VIT_B, last_tokens=1)
