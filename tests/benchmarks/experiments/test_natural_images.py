from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiments import natural_images
from benchmarks.experiments.natural_images import PHOTOGRAPHS, natural_set
from engines.errors import MissingDependencyError, UsageError

for package in {package for package, _ in PHOTOGRAPHS}:
    pytest.importorskip(package)


def test_every_photograph_is_there_without_a_download() -> None:
    found = natural_set((32, 48), len(PHOTOGRAPHS))

    assert found.pixels.shape == (len(PHOTOGRAPHS), 32, 48, 3)
    assert found.pixels.dtype == np.uint8
    assert all(photograph.std() > 10 for photograph in found.pixels)
    assert found.names[0] == "astronaut[0]"
    assert all(Path(file).stem in found.description for _, file in PHOTOGRAPHS)
    assert "seed 0" in found.description


def test_a_seed_gives_the_same_crops_and_another_gives_others() -> None:
    first, again, other = (natural_set((16, 16), 3, seed=seed).pixels for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_crops_of_one_photograph_differ() -> None:
    found = natural_set((16, 16), len(PHOTOGRAPHS) + 1)

    assert found.names[-1] == "astronaut[1]"
    assert not np.array_equal(found.pixels[0], found.pixels[-1])


def test_fewer_crops_name_only_their_photographs() -> None:
    assert "rocket" not in natural_set((16, 16), 2).description


def test_what_cannot_be_given_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="wanted 1 or more"):
        natural_set((16, 16), 0)

    monkeypatch.setattr(natural_images, "PHOTOGRAPHS", (("no_such_package", "a.png"),))
    with pytest.raises(MissingDependencyError, match="no_such_package"):
        natural_set((16, 16), 1)
