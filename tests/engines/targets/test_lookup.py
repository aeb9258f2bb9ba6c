"""Names of targets: devices, releases, near names, what is too old."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.errors import UnknownNameError, UsageError
from engines.targets import Target, _lookup


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("rtx", "rtx"),
        ("jetson-orin-nano-8gb", "jetson-orin-nano-8gb@jp6.2"),
        ("jetson-orin-nano-8gb@jp7.2", "jetson-orin-nano-8gb@jp7.2"),
        ("rtx-4090", "rtx-4090@rtx"),
        ("rtx-4090@trt10.9", "rtx-4090@trt10.9"),
    ],
)
def test_a_name_is_resolved_and_its_result_names_itself(name: str, resolved: str) -> None:
    target = _lookup.load_target(name)

    assert target.name == resolved
    assert _lookup.load_target(resolved) == target
    assert "@" not in target.file_name


def facts(name: str) -> tuple[object, ...]:
    target = _lookup.load_target(name)
    return target.module, target.opset, target.opset_ceiling, target.precisions


def test_releases_of_one_board_differ() -> None:
    strong = ("fp32", "fp16", "bf16", "int8")

    assert facts("jetson-orin-nano-8gb@jp6.2") == ("tensorrt", 20, 20, strong)
    assert facts("jetson-orin-nano-8gb@jp7.2") == ("tensorrt", 20, 24, strong)
    assert facts("jetson-agx-orin-64gb@jp7.2.2-trt11") == ("tensorrt", 20, 24, strong)


def test_a_card_is_compiled_for_alone_with_tensorrt_rtx() -> None:
    assert _lookup.load_target("rtx-4090@rtx").compute_capabilities == ("8.9",)
    assert _lookup.load_target("rtx-4090@trt").compute_capabilities == ()


def test_a_tensorrt_version_finds_the_release_that_stands_for_it() -> None:
    release = _lookup.load_target("rtx-4090@trt10.12").release

    assert release is not None
    assert release.opset_ceiling == 22
    assert release.takes("10.12.0.36")
    assert not release.takes("10.11.0.33")


@pytest.mark.parametrize(
    ("release", "version", "takes"),
    [
        ("jp6.2", "10.3.0.30", True),
        ("jp6.2", "10.7.0", True),
        ("jp6.2", "10.8.0", False),
        ("jp6.2", "8.6.2", False),
        ("jp7.2.2-trt11", "11.4.1", True),
        ("jp7.2.2-trt11", "11.12.0", True),
        ("jp7.2.2-trt11", "11.4.0.106", False),
        ("jp7.2.2-trt11", "12.0.0", False),
    ],
)
def test_a_release_takes_the_versions_it_stands_for(
    release: str, version: str, takes: bool
) -> None:
    found = _lookup.load_target(f"jetson-agx-orin-64gb@{release}").release

    assert found is not None
    assert found.takes(version) == takes


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("jetson-agx-orin-64gb@jp6.2", "10.3 to 10.7"),
        ("jetson-agx-orin-64gb@jp7.2.2-trt11", "11.4.1 to 11.x"),
        ("rtx-4090@trt10.3", "10.3"),
    ],
)
def test_a_release_says_its_versions(name: str, span: str) -> None:
    release = _lookup.load_target(name).release

    assert release is not None
    assert release.span == span


@pytest.mark.parametrize("name", ["jetson-orin-nano-8gb@jp9", "rtx-4090@trt12.0", "rtx-4090@"])
def test_an_unknown_release_lists_the_known_ones(name: str) -> None:
    device = _lookup.entry(name.partition("@")[0])
    assert not isinstance(device, Target)

    with pytest.raises(UsageError) as caught:
        _lookup.load_target(name)

    assert all(release.name in caught.value.what for release in device.releases)


def test_a_release_of_a_runtime_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"cpu has no releases, 'jp6\.2' was asked for"):
        _lookup.load_target("cpu@jp6.2")


def test_a_near_name_is_proposed_and_never_taken() -> None:
    with pytest.raises(UnknownNameError) as caught:
        _lookup.load_target("jetson_orin_nano_8gb")

    assert "'jetson-orin-nano-8gb'" in caught.value.fix
    assert "jetson-agx-orin-64gb" in caught.value.what


def test_what_is_too_old_is_refused_in_a_sentence_and_known_all_the_same() -> None:
    for release, version in (("jp5.1.2", r"8\.5"), ("jp6.0", r"8\.6")):
        words = rf"TensorRT {version} is too old, JetPack 6\.1 or later \(TensorRT 10\.3\)"
        with pytest.raises(UsageError, match=words) as caught:
            _lookup.load_target(f"jetson-orin-nano-8gb@{release}")

        assert "jp6.2" in caught.value.fix
        assert _lookup.known_target(f"jetson-orin-nano-8gb@{release}").opset_ceiling == 17


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("jetson-xavier-nx", "--target cpu"),
        ("jetson-agx-xavier@jp5.1.2", "--target cpu"),
        ("tensorrt8", "update the board"),
    ],
)
def test_what_ends_with_tensorrt_8_is_refused_with_what_to_do(name: str, fix: str) -> None:
    with pytest.raises(UsageError, match=r"JetPack 6\.1 or later .* is needed") as caught:
        _lookup.load_target(name)

    assert fix in caught.value.fix
    assert name.partition("@")[0] not in _lookup.target_names()


def test_every_module_belongs_to_one_target() -> None:
    found = _lookup.modules()

    assert found["p3767-0005"] == "jetson-orin-nano-8gb"
    assert all(name in _lookup.target_names() for name in found.values())


@given(st.text(), st.text())
@example("jetson-orin-nano-8gb", "../../etc")
@example("rtx-4090", "trt10.3/../x")
@example("_jetson", "")
@example("--init--", "")
def test_any_text_is_a_target_or_a_sentence(name: str, release: str) -> None:
    for text in (name, f"{name}@{release}", f"jetson-orin-nano-8gb@{release}", f"a100@{release}"):
        try:
            target = _lookup.load_target(text)
        except UsageError as error:
            assert error.fix
        else:
            assert not set(target.file_name) & set("@/\\: ")
