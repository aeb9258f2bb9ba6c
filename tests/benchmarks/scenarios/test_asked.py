"""How scenarios are asked for, and what is refused."""

from __future__ import annotations

import pytest

from benchmarks.scenarios.asked import Scenario, parse_scenario, parse_scenarios
from engines.errors import UsageError


@pytest.mark.parametrize("text", ["stream:30", "stream:7.5", "soak:10", "offline", "cold"])
def test_what_is_asked_for_reads_as_it_was_written(text: str) -> None:
    assert str(parse_scenario(text)) == text


def test_numbers_are_read() -> None:
    assert parse_scenario("soak:0.5") == Scenario(kind="soak", amount=0.5)


@pytest.mark.parametrize(
    "text",
    ["", "stream", "stream:", "stream:0", "soak:-1", "offline:3", "latency:1", "stream:1e3",
     "stream:\uff13", "soak:9999999"],
)  # fmt: skip
def test_what_is_no_scenario_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no scenario"):
        parse_scenario(text)


def test_none_is_asked_for_twice() -> None:
    assert len(parse_scenarios(["stream:10", "stream:30", "offline"])) == 2 + 1
    for twice in (["stream:30", "stream:30.0"], ["soak:1", "soak:2"], ["offline", "offline"]):
        with pytest.raises(UsageError, match="asks for one twice"):
            parse_scenarios(twice)
