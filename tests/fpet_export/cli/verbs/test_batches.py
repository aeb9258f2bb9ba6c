"""`bench --batches`, and how `bench` names what it compares and refuses what it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engines.manifest import read_manifest
from fpet_export.steps import batches, plain_vit
from tests.fpet_export.command_line import Exported, call

SHORT = ("--rounds", "4", "--seconds", "0", "--threads", "1", "--allow-noise")


@pytest.fixture(scope="module")
def dynamic(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with a dynamic batch."""
    out = tmp_path_factory.mktemp("dynamic")
    done = call("export", *exported.words, "-o", out, "--limit", "2", "--batch", "dyn:1-4")
    assert done.code == 0, done.err
    return out / "model.onnx"


def test_a_dynamic_graph_is_measured_at_each_size_against_a_dynamic_plain_model(
    dynamic: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "batches.json", tmp_path / "batches.html"

    done = call(
        "bench", dynamic, "--against", "plain", "--batches", "4,1", *SHORT, "-o", out, "--html",
        page,
    )  # fmt: skip

    assert done.code == 0, done.err
    assert done.out.split() == [str(out), str(page)]
    document = json.loads(out.read_text())
    assert [one["batch"] for one in document["measurements"]] == [1, 4]
    assert {one["plain"] for one in document["measurements"]} == {"plain"}
    (verdict,) = document["merging"]
    assert (verdict["contender"], verdict["pays"]) == ("model", None)  # four rounds show nothing
    assert "2 batch sizes" in done.err
    assert "Whether merging pays on" in done.err
    assert "By batch size" in page.read_text()


def test_the_result_is_one_sentence_without_a_file(dynamic: Path) -> None:
    done = call("bench", dynamic, "--against", "plain", "--batches", "1,2", *SHORT, "--json")

    assert done.code == 0, done.err
    assert done.document()["kind"] == "batches"
    (verdict,) = done.document()["merging"]
    assert verdict["sentence"].startswith("Whether merging pays on ")


def test_a_fixed_batch_is_refused_with_the_command_that_exports_a_dynamic_one(
    exported: Exported, engine: Path
) -> None:
    for path in (exported.graph, engine):
        done = call("bench", path, "--against", "plain", "--batches", "1,8", *SHORT, "--json")

        assert done.code == 2
        error = done.error()
        assert "its batch is fixed to 1" in error["what"]
        assert "fpet-export export" in error["fix"]
        assert error["fix"].partition(", then")[0].endswith("--batch dyn:1-8")
        assert ("then quantize and build" in error["fix"]) == (path == engine)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--batches", "1,8"), "it takes batches from 1 to 4"),
        (("--batches", "1", "--remote", "orin1"), "one batch size at a time"),
        (("--batches", "1,x"), "is not a list of numbers"),
        (("--batches", "0"), "is not a list of numbers"),
        (("--batches", ","), "is not a list of numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: tuple[str, ...], what: str, dynamic: Path
) -> None:
    done = call("bench", dynamic, "--against", "plain", *words, *SHORT, "--json")

    assert done.code == 2
    assert what in done.error()["what"]


def test_the_proposed_export_replaces_the_batch_of_the_first_one() -> None:
    line = "fpet-export export run --batch 1 --target cpu -o out-cpu"

    assert batches.with_batch(line, "--batch dyn:1-8") == (
        "fpet-export export run --target cpu -o out-cpu --batch dyn:1-8"
    )
    assert "dyn:1-4" not in batches.with_batch("x --batch=dyn:1-4", "--batch dyn:1-8")


@pytest.mark.parametrize("beside", [True, False])
def test_files_of_one_name_in_two_folders_are_told_apart(
    beside: bool, exported: Exported, tmp_path: Path
) -> None:
    paths = []
    for name in ("a", "b"):
        shutil.copytree(exported.out, tmp_path / name)
        paths.append(tmp_path / name / "model.onnx")
    words = (*paths,) if beside else (paths[0], "--against", paths[1])

    done = call("bench", *words, *SHORT, "--json")

    assert done.code == 0, done.err
    assert {one["name"] for one in done.document()["contenders"]} == {"a/model", "b/model"}


@pytest.mark.parametrize(
    ("against", "meant"),
    [("plain2", "plain"), ("Plain", "plain"), ("plian", "plain"), ("ort_plan", "ort_plain")],
)
def test_a_baseline_that_is_almost_plain_is_asked_about(
    against: str, meant: str, exported: Exported
) -> None:
    done = call(
        "bench", exported.graph, "--against", against, "--peers", "ort_plain", *SHORT, "--json"
    )

    assert done.code == 2
    assert done.error()["where"] == "--against"
    assert done.error()["fix"].startswith(f"did you mean {meant}")


def test_a_peer_is_a_baseline_too(exported: Exported) -> None:
    done = call(
        "bench", exported.graph, "--against", "ort_plain", "--peers", "ort_plain", *SHORT, "--json"
    )

    assert done.code == 0, done.err
    assert done.document()["baseline"] == "ort_plain"
    assert done.document()["plain"] is None


def test_a_contender_is_a_baseline_by_its_name(exported: Exported, engine: Path) -> None:
    done = call("bench", exported.graph, engine, "--against", "model.cpu", *SHORT, "--json")

    assert done.code == 0, done.err
    assert done.document()["baseline"] == "model.cpu"


def test_the_plain_model_of_a_dynamic_graph_is_dynamic(dynamic: Path, tmp_path: Path) -> None:
    """A static one would be measured with what a fixed batch gains."""
    from engines.engine import load_target

    _, graph = plain_vit.write(read_manifest(dynamic), load_target("cpu"), tmp_path)

    manifest = read_manifest(graph)
    assert manifest.batch_range == (1, 4)
    assert isinstance(manifest.inputs[0].shape[0], str)
