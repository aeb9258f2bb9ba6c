"""Settings that every test shares."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.shared_exports import SharedExports

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


OPT_IN = {
    "slow": "takes more than ten seconds; needs --slow",
    "arm64": "needs an emulated arm64 root: make test-arm64",
}
"""Marker and option of the same name, and why a test is skipped without it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption(
        "--arm64", metavar="ROOT", help="run the tests marked arm64 in this root; make test-arm64"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name, reason in OPT_IN.items():
        if config.getoption(f"--{name}"):
            continue
        skip = pytest.mark.skip(reason=reason)
        for item in items:
            if item.get_closest_marker(name) is not None:
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Let the collector pass by what is alive after a file: PyTorch and the shared exports.

    Every measurement collects first, which took half a second in a process that had exported much.
    """
    result = yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result


@pytest.fixture(scope="session", autouse=True)
def wide_terminal() -> Iterator[None]:
    """Let sentences come in one piece; tests of the layout set a width of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        yield


@pytest.fixture(scope="session")
def exporter() -> Iterator[SharedExports]:
    """Let tests that export share what PyTorch's exporter finds."""
    from tests import shared_exports  # imports torch, which most tests of engines do without

    yield from shared_exports.installed()
