"""Every verb's options and the fields of its request are the same, with the same defaults."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from calibration import observers, recipe
from engines.errors import UsageError
from engines.registry import available
from fpet_export.cli.dispatch import build_parser, load_verb, parsers_of_verbs
from fpet_export.cli.verbs import VERBS
from fpet_export.requests import (
    OBSERVERS,
    SITES,
    BenchRequest,
    BuildRequest,
    CheckImages,
    Exporting,
    GraphInput,
    Precision,
    Request,
    Rounds,
    Run,
    RunFacts,
    made,
)

NAMES = sorted(name for group in VERBS.values() for name in group)
OF_THE_COMMAND_LINE = {"verb", "json", "quiet", "verbose", "help", "print_trtexec"}
"""What no request has: how the result is printed."""
NOT_TYPED = {"command"}


def request_of(verb: str) -> type[Request]:
    """Find the request that the verb's file makes."""
    file: Any = load_verb(verb)
    (module, name), *_ = re.findall(r"made\((\w+)\.(\w+),", inspect.getsource(file))
    found: type[Request] = getattr(getattr(file, module), name)
    assert issubclass(found, Request)
    return found


def literals(hint: Any) -> set[object]:
    """Return the values of a union of literals."""
    parts = typing.get_args(hint)
    return set().union(*(literals(one) if typing.get_args(one) else {one} for one in parts))


def actions_of(verb: str) -> dict[str, argparse.Action]:
    parser = parsers_of_verbs(build_parser())[verb]
    return {action.dest: action for action in parser._actions}


@pytest.mark.parametrize("verb", NAMES)
def test_the_fields_are_the_options(verb: str) -> None:
    fields = {field.name for field in dataclasses.fields(request_of(verb))}

    assert fields - NOT_TYPED == set(actions_of(verb)) - OF_THE_COMMAND_LINE


@pytest.mark.parametrize("option", ["--rank", "--dim"])
def test_the_rank_has_the_name_that_the_authors_code_gives_it_too(option: str) -> None:
    parsed = build_parser().parse_args(["inspect", "RUN", option, "8"])

    assert parsed.rank == 8


@pytest.mark.parametrize("verb", NAMES)
def test_the_defaults_are_those_of_the_options(verb: str) -> None:
    actions = actions_of(verb)
    parser = parsers_of_verbs(build_parser())[verb]
    for field in dataclasses.fields(request_of(verb)):
        action = actions.get(field.name)
        if action is None or action.required:
            continue
        stated = parser.get_default(field.name)
        own: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            own = field.default_factory()
        if own is dataclasses.MISSING:
            assert not action.option_strings, field.name  # an argument that must be typed
            continue
        assert (tuple(stated) if isinstance(stated, list) else stated) == own, field.name


@pytest.mark.parametrize("verb", NAMES)
def test_the_choices_are_those_of_the_options(verb: str) -> None:
    for field in dataclasses.fields(request_of(verb)):
        action = actions_of(verb).get(field.name)
        if action is not None and action.choices is not None:
            assert set(field.metadata["choices"]) == set(action.choices), field.name


@pytest.mark.parametrize("name", ["input", "ties", "precision", "io", "preset", "half"])
def test_choices_are_those_that_the_types_state(name: str) -> None:
    kinds: list[type[Request]] = [Exporting, Precision]
    found = [
        (field, typing.get_type_hints(kind)[name])
        for kind in kinds
        for field in dataclasses.fields(kind)
        if field.name == name
    ]
    assert found
    for field, hint in found:
        assert literals(hint) == set(field.metadata["choices"])


def test_strings_become_paths_and_lists_tuples() -> None:
    checked = CheckImages(data="val", labels=Path("names.txt"))  # type: ignore[arg-type]
    assert (checked.data, checked.labels) == (Path("val"), Path("names.txt"))
    assert Run(run=Path("runs/lora")).run == "runs/lora"  # type: ignore[arg-type]
    precision = Precision(table=["a.json"], keep="blocks/0,blocks/1")  # type: ignore[arg-type]
    assert precision.table == (Path("a.json"),)
    assert precision.keep == ("blocks/0", "blocks/1")


@pytest.mark.parametrize(
    ("kind", "settings", "what", "where"),
    [
        (Precision, {"precision": "int7"}, "'int7' is not one of fp32, fp16", "precision"),
        (Rounds, {"rounds": 0}, "0 is not a whole number from 1", "rounds"),
        (Rounds, {"rounds": True}, "True is not a whole number from 1", "rounds"),
        (Precision, {"max_drop": float("nan")}, "nan is not finite", "max_drop"),
        (Precision, {"min_agreement": 99}, "99 is not a share from 0 to 1", "min_agreement"),
        (Precision, {"min_agreement": -0.1}, "-0.1 is not a share from 0 to 1", "min_agreement"),
        (Precision, {"observer": {"inputs": "mse"}}, "'inputs' is not one of input", "observer"),
        (Precision, {"observer": {"input": "mean"}}, "'mean' is not one of absmax", "observer"),
        (Precision, {"preset": "vit"}, "'vit' is not one of vit-linear", "preset"),
        (GraphInput, {"batch": 0}, "0 is neither a number from 1", "batch"),
        (GraphInput, {"batch": (0, 4)}, "(0, 4) is neither a number from 1", "batch"),
        (GraphInput, {"batch": [8, 1]}, "(8, 1) is neither a number from 1", "batch"),
        (GraphInput, {"batch": (4, 4)}, "(4, 4) is neither a number from 1", "batch"),
        (GraphInput, {"batch": True}, "True is a bool", "batch"),
        (BuildRequest, {"onnx": "a.onnx", "batch": (1, 9, 8)}, "does not rise from 1", "batch"),
        (BuildRequest, {"onnx": "a.onnx", "batch": (1, 8)}, "is a tuple", "batch"),
        (BenchRequest, {"artefacts": ["a"], "batches": (8, 0)}, "numbers from 1", "batches"),
        (BenchRequest, {"artefacts": ["a"], "batches": ()}, "numbers from 1", "batches"),
        (RunFacts, {"merge_block": "six"}, "'six' is neither a block's number", "merge_block"),
        (RunFacts, {"merge_block": -1}, "-1 is neither a block's number", "merge_block"),
        (RunFacts, {"background": (0, 0, 256)}, "(0, 0, 256) is no colour", "background"),
    ],
)
def test_a_value_that_the_command_line_refuses_is_refused(
    kind: type[Request], settings: dict[str, Any], what: str, where: str
) -> None:
    with pytest.raises(UsageError) as refused:
        kind(**settings)

    assert what in refused.value.what
    assert refused.value.where == where


def test_what_the_command_line_takes_is_taken() -> None:
    for share in (0, 1, 0.99):
        assert Precision(min_agreement=share).min_agreement == share
    assert Precision(observer={"input": "percentile"}).observer == {"input": "percentile"}
    assert GraphInput(batch=(1, 8)).batch == (1, 8)
    assert BuildRequest(onnx=Path("a.onnx"), batch=(1, 1, 8)).batch == (1, 1, 8)
    assert BenchRequest(artefacts=(Path("a"),), batches=(8, 1, 8)).batches == (1, 8)
    for block in (0, 11, "none"):
        assert RunFacts(merge_block=block).merge_block == block


def test_the_rules_are_the_observers_there_are() -> None:
    assert set(OBSERVERS) == set(available(observers))
    assert set(SITES) == set(recipe.OBSERVERS)


def test_a_near_choice_is_proposed() -> None:
    with pytest.raises(UsageError, match="did you mean") as refused:
        Precision(precision="fp61")  # type: ignore[arg-type]

    assert "fp16" in refused.value.fix


def test_a_name_that_no_request_has_is_an_error_of_the_caller() -> None:
    with pytest.raises(TypeError, match="no_such_setting"):
        Rounds(no_such_setting=1)  # type: ignore[call-arg]

    assert made(Rounds, {"rounds": 7, "verb": "bench"}).rounds == 7


def test_every_request_is_a_frozen_dataclass() -> None:
    for verb in NAMES:
        kind = request_of(verb)
        assert dataclasses.is_dataclass(kind)
        assert importlib.import_module(kind.__module__)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(object.__new__(kind), "command", ())  # noqa: B010
