"""`targets`: every target with its facts."""

from __future__ import annotations

from engines import registry, targets
from tests.fpet_export.command_line import call


def test_every_target_is_listed_in_words_and_json() -> None:
    names = registry.available(targets)

    told, document = call("targets"), call("targets", "--json").document()

    assert told.out.split() == names
    assert [target["name"] for target in document["targets"]] == names
    assert all(name in told.err for name in names)


def test_opsets_and_typing_are_in_the_table() -> None:
    (row,) = [line for line in call("targets").err.splitlines() if "tensorrt8" in line]

    assert "17 (up to 17)" in row
    assert "weak" in row
    facts = {t["name"]: t for t in call("targets", "--json").document()["targets"]}
    assert (facts["tensorrt"]["opset_ceiling"], facts["tensorrt"]["typing"]) == (20, "strong")


def test_verbose_adds_the_sources() -> None:
    sources = call("targets", "--json").document()["targets"][0]["sources"]

    assert sources
    assert sources[0] not in call("targets").err
    assert sources[0] in call("targets", "-v").err


def test_quiet_prints_the_names_only() -> None:
    assert call("targets", "-q").err == ""
