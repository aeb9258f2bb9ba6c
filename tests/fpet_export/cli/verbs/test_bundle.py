"""`bundle`, `sign`, `verify`, `check` and the agent, as a workstation and a board use them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpet_export
from engines.engine import load_target
from engines.manifest import manifest_path, read_manifest, write_manifest
from engines.transport.bundle import INDEX
from fpet_export.board.agent import VERBS, build_agent
from fpet_export.steps import plain_vit
from tests.fpet_export.command_line import Done, Exported, call, write_shard
from tests.fpet_export.unpacked import agent, unpack

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
LARGEST_AGENT_BYTES = 450_000


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "anna"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(words, check=True)
    path.with_name("allowed").write_text(f"anna@edge {path.with_suffix('.pub').read_text()}")
    return path


@pytest.fixture(scope="module")
def archive(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The bundle of the exported graph, checked on labelled images."""
    folder = tmp_path_factory.mktemp("bundle")
    out = folder / "tiny.bundle.tar"
    done = call(
        "bundle", exported.graph, "--data", write_shard(folder / "val.npz"), "-o", out, "--json"
    )
    assert done.code == 0, done.err
    return out, done


@pytest.fixture
def board(archive: tuple[Path, Done], tmp_path: Path) -> Path:
    """A folder in which a system's tar unpacked the bundle."""
    return unpack(archive[0], tmp_path / "board")


# bundle


def test_a_bundle_holds_what_a_board_needs(archive: tuple[Path, Done]) -> None:
    document = archive[1].document()

    assert set(document["files"]) == {
        "README.txt", "agent.pyz", "model.check.npz", "model.manifest.json", "model.onnx",
    }  # fmt: skip
    assert document["target"] == "cpu"
    assert document["signature"] is None


def test_the_readme_tells_what_to_type(board: Path) -> None:
    text = (board / "README.txt").read_text()

    assert "graph model.onnx" in text
    assert "5 classes" in text
    assert "an image becomes: RGB as stored (plain) · bicubic to 16x16" in text
    for verb in ("doctor", "build", "check", "bench", "predict"):
        assert f"python3 agent.pyz {verb}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_same_graph_gives_the_same_bundle(
    archive: tuple[Path, Done], exported: Exported, tmp_path: Path
) -> None:
    out = tmp_path / "again.bundle.tar"
    done = call("bundle", exported.graph, "--data", archive[0].with_name("val.npz"), "-o", out)

    assert done.code == 0, done.err
    assert out.read_bytes() == archive[0].read_bytes()


def test_an_engine_takes_its_graph_s_word_along(
    exported: Exported, engine: Path, tmp_path: Path
) -> None:
    graph = exported.copy(tmp_path)
    for path in (engine, engine.with_name("model.cpu.manifest.json")):
        shutil.copy(path, tmp_path)

    done = call("bundle", tmp_path / engine.name, "--json")
    alone = call("bundle", engine, "-o", tmp_path / "alone.bundle.tar", "--json")

    assert done.code == 0, done.err
    assert "model.check.npz" in done.document()["files"]
    assert f"model.check.npz: {graph.name} on 8 synthetic images" in done.err
    assert "model.check.npz" not in alone.document()["files"]
    assert "not beside it" in alone.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("absent.onnx",), 3, "there is no such file"),
        (("{readme}",), 3, "neither a graph, nor an engine, nor a bundle"),
        (("{bundle}",), 2, "this is already a bundle"),
        (("{graph}", "--target", "jetson"), 2, "'jetson' is not one of"),
        (("{engine}", "--target", "rtx"), 2, "was built for cpu, not for rtx"),
        (("{graph}", "--data", "absent"), 3, "no such file for --data"),
        (("{graph}", "--key", "absent"), 3, "no such file for --key"),
    ],
    ids=str,
)
def test_what_cannot_be_bundled_is_a_sentence(
    words: tuple[str, ...], code: int, said: str,
    archive: tuple[Path, Done], exported: Exported, engine: Path, tmp_path: Path,
) -> None:  # fmt: skip
    readme = tmp_path / "README.txt"
    readme.write_text("x")
    places = {
        "{readme}": readme, "{bundle}": archive[0], "{graph}": exported.graph, "{engine}": engine,
    }  # fmt: skip
    out = tmp_path / "out.bundle.tar"

    done = call("bundle", *(places.get(word, word) for word in words), "-o", out, "--json")

    assert done.code == code, done.out
    assert said in done.error()["what"]
    assert not out.exists()


def test_a_bundle_is_not_replaced_without_force(
    archive: tuple[Path, Done], exported: Exported
) -> None:
    done = call("bundle", exported.graph, "-o", archive[0], "--json")

    assert done.code == 2
    assert "exists already" in done.error()["what"]


def test_a_tampered_graph_is_not_bundled(tampered: Path) -> None:
    done = call("bundle", tampered, "--json")

    assert done.code == 10
    assert not list(tampered.parent.glob("*.tar"))


# sign and verify


@needs_ssh
def test_a_signed_bundle_is_unpacked(archive: tuple[Path, Done], key: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copy(archive[0], tmp_path))

    signed = call("sign", bundle, "--key", key)
    done = call(
        "verify", bundle, "--signers", key.with_name("allowed"), "--identity", "anna@edge",
        "--unpack", tmp_path / "board", "--json",
    )  # fmt: skip

    assert signed.code == 0, signed.err
    assert signed.out == f"{bundle}.sig\n"
    assert done.code == 0, done.err
    assert done.document()["signer"] == "anna@edge"
    assert done.document()["artefact"] == str(tmp_path / "board" / "model.onnx")
    names = {path.name for path in (tmp_path / "board").iterdir()}
    assert names == {INDEX, *archive[1].document()["files"]}


@needs_ssh
def test_bundle_signs_when_it_is_given_a_key(exported: Exported, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.bundle.tar"

    done = call("bundle", exported.graph, "-o", out, "--key", key, "--json")
    verified = call("verify", out, "--signers", key.with_name("allowed"))

    assert done.document()["signature"] == f"{out}.sig"
    assert "signature  of anna@edge" in verified.err


@needs_ssh
def test_a_signature_stops_what_its_hashes_would_let_pass(
    archive: tuple[Path, Done], exported: Exported, key: Path, tmp_path: Path
) -> None:
    """A whole bundle of somebody else's, under a name that was signed."""
    bundle = Path(shutil.copy(archive[0], tmp_path))
    assert call("sign", bundle, "--key", key).code == 0
    assert call("bundle", exported.graph, "--limit", "1", "-o", bundle, "--force").code == 0

    trusting = call("verify", bundle)
    done = call(
        "verify",
        bundle,
        "--signers",
        key.with_name("allowed"),
        "--unpack",
        tmp_path / "b",
        "--json",
    )

    assert trusting.code == 0
    assert "not checked: --signers was not given" in trusting.err
    assert done.code == 10
    assert "the signature is not valid" in done.error()["what"]
    assert not (tmp_path / "b").exists()


@needs_ssh
def test_an_engine_opens_only_with_the_signature_that_is_asked_for(
    exported: Exported, images: list[Path], key: Path, tmp_path: Path
) -> None:
    graph = exported.copy(tmp_path)
    words = ("predict", graph, *images, "--signers", key.with_name("allowed"), "--json")

    unsigned = call(*words)
    assert call("sign", graph, "--key", key).code == 0
    signed = call(*words)
    manifest = graph.with_name("model.manifest.json")
    manifest.write_text(manifest.read_text().replace('"ant"', '"bat"'))
    changed = call(*words)

    assert unsigned.code == 10
    assert "it is not signed" in unsigned.error()["what"]
    assert signed.code == 0, signed.err
    assert changed.code == 10
    assert "the signature is not valid" in changed.error()["what"]


def test_a_damaged_bundle_is_refused(archive: tuple[Path, Done], tmp_path: Path) -> None:
    content = bytearray(archive[0].read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.bundle.tar").write_bytes(content)

    done = call("verify", tmp_path / "x.bundle.tar", "--unpack", tmp_path / "b", "--json")

    assert done.code == 10
    assert "the bundle is refused" in done.error()["what"]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("words", [("--identity", "anna"), ("--unpack", "b")])
def test_options_that_mean_nothing_alone_are_refused(
    words: tuple[str, ...], exported: Exported
) -> None:
    assert call("verify", exported.graph, *words).code == 2


def test_an_artefact_is_verified_by_its_manifest(exported: Exported, tampered: Path) -> None:
    done, refused = call("verify", exported.graph), call("verify", tampered, "--json")

    assert done.code == 0
    assert "fits: graph model.onnx" in done.err
    assert refused.code == 10


# check


def test_an_engine_says_what_its_graph_said(board: Path, engine: Path) -> None:
    done = call("check", engine, "--expect", board / "model.check.npz", "--json")

    assert done.code == 0, done.err
    (row,) = done.document()["parity"]["rows"]
    assert row["images"] == 6
    assert row["accuracy"] is not None
    assert row["largest_logit_difference"] < 1e-4


def copied(engine: Path, folder: Path) -> Path:
    """Copy an engine and its side-car."""
    folder.mkdir(exist_ok=True)
    shutil.copy(manifest_path(engine), folder)
    return Path(shutil.copy(engine, folder))


def test_an_engine_of_other_weights_drifts(board: Path, engine: Path, tmp_path: Path) -> None:
    with np.load(board / "model.check.npz") as content:
        arrays = dict(content)
    arrays["logits"] = arrays["logits"] * np.float32(1.01)
    np.savez(tmp_path / "other.check.npz", **arrays)

    mine = copied(engine, tmp_path)  # the failure is kept in its manifest
    done = call("check", mine, "--expect", tmp_path / "other.check.npz", "--json")

    assert done.code == 7


def test_an_image_with_a_near_tie_may_be_answered_either_way(
    board: Path, engine: Path, tmp_path: Path
) -> None:
    """Another CPU's rounding sends a token elsewhere where two scores are almost equal."""
    with np.load(board / "model.check.npz") as content:
        arrays = dict(content)
    arrays["logits"][0] *= np.float32(1.01)
    codes = []
    for least in (1e-3, 1e-7):  # a sure match, and one that rounding decides
        arrays["margin"] = np.full((6, arrays["margin"].shape[1]), 1e-3, np.float32)
        arrays["margin"][0, 0] = least
        np.savez(tmp_path / "x.check.npz", **arrays)
        mine = copied(engine, tmp_path / str(least))
        codes.append(call("check", mine, "--expect", tmp_path / "x.check.npz").code)

    assert codes == [7, 0]


def test_a_bundle_says_how_sure_the_match_is(
    board: Path, archive: tuple[Path, Done], exported: Exported
) -> None:
    with np.load(board / "model.check.npz") as content:
        pixels, margin = content["pixels"], content["margin"]
    wanted = fpet_export.load(exported.run.text, backbone=exported.backbone).outputs(pixels).margin

    assert wanted is not None
    assert np.abs(margin - wanted).max() < 1e-5  # of a float32 graph, of the float64 model
    sure = int((margin > 1e-5).all(axis=1).sum())
    assert f"{sure} of them with a sure match" in archive[1].err


def change(arrays: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {key: array for key, array in (arrays | {name: value}).items() if array is not None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixels", None),
        ("pixels", np.zeros((6, 4), np.uint8)),
        ("logits", np.zeros((5, 5), np.float32)),
        ("logits", np.full((6, 5), np.nan, np.float32)),
        ("logits", np.zeros((6, 5))),
        ("labels", np.zeros(6, np.int32)),
        ("margin", np.zeros((5, 4), np.float32)),
        ("margin", np.full((6, 4), np.nan, np.float32)),
        ("facts", np.frombuffer(b"{", np.uint8)),
        ("facts", np.frombuffer(b'{"schema": 2}', np.uint8)),
        ("facts", np.array([None])),
    ],
)
def test_a_damaged_check_file_is_refused(
    name: str, value: Any, board: Path, engine: Path, tmp_path: Path
) -> None:
    with np.load(board / "model.check.npz") as content:
        np.savez(tmp_path / "x.check.npz", **change(dict(content), name, value))

    done = call("check", engine, "--expect", tmp_path / "x.check.npz", "--json")

    assert done.code == 10
    assert "cannot be read" in done.error()["what"]


def test_a_check_needs_one_file(engine: Path, tmp_path: Path) -> None:
    done = call("check", engine, "--json")

    assert done.code == 3
    assert "no check file (*.check.npz) lies beside" in done.error()["what"]


# The agent


def test_the_agent_is_small_and_always_the_same(tmp_path: Path) -> None:
    content = build_agent()
    (tmp_path / "agent.pyz").write_bytes(content)

    assert len(content) <= LARGEST_AGENT_BYTES
    assert build_agent() == content
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        verbs = {Path(name).stem for name in archive.namelist() if "/verbs/" in name}
    assert verbs >= set(VERBS)
    assert not any(verb in verbs for verb in ("export", "quantize", "deploy"))


def test_a_board_builds_checks_predicts_and_measures(board: Path, images: list[Path]) -> None:
    before = agent(board, "check")
    built = agent(board, "build")
    checked = agent(board, "check", "--json")
    predicted = agent(board, "predict", *images)
    measured = agent(board, "bench", "--rounds", 3, "--seconds", 0.1, "--allow-noise", "--json")

    assert before.code == 3
    assert "build it: python3 agent.pyz build" in before.err
    assert built.code == 0, built.err
    assert "python3 agent.pyz bench" in built.err
    assert "fpet-export" not in built.err
    assert checked.code == 0, checked.err
    assert checked.document()["parity"]["rows"][0]["stage"] == "model.cpu.onnx"
    assert predicted.code == 0, predicted.err
    assert len(predicted.out.splitlines()) == len(images)
    assert measured.code == 0, measured.err
    assert measured.document()["contenders"][0]["name"] == "model.cpu"


def test_the_agent_answers_what_the_workstation_answers(
    board: Path, engine: Path, images: list[Path]
) -> None:
    assert agent(board, "build").code == 0

    here = call("predict", engine, *images, "--json").document()
    there = agent(board, "predict", *images, "--json").document()

    assert [one["classes"][0]["class"] for one in there["predictions"]] == [
        one["classes"][0]["class"] for one in here["predictions"]
    ]


def test_everything_may_still_be_named(board: Path) -> None:
    done = agent(board, "build", "model.onnx", "--target", "cpu", "-o", "mine.onnx")

    assert done.code == 0, done.err
    assert (board / "mine.onnx").exists()


@pytest.mark.parametrize("words", [("--help",), ("build", "--help"), ("targets",), ("--version",)])
def test_questions_need_no_bundle(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "agent.pyz").write_bytes(build_agent())

    assert agent(tmp_path, *words).code == 0


def test_a_verb_that_the_agent_lacks_is_proposed_for_the_workstation(
    board: Path, images: list[Path]
) -> None:
    (board / "model.check.npz").write_bytes(b"")

    done = agent(board, "check", "model.onnx")

    assert done.code == 10
    assert "bundle the graph again, where it was made" in done.err


def test_what_is_left_at_home_is_a_sentence(board: Path) -> None:
    assert agent(board, "build").code == 0

    peers = agent(board, "bench", "--peers", "torch_eager", *SHORT[:-1])
    plain = agent(board, "bench", "--against", "plain", *SHORT[:-1])

    assert (peers.code, plain.code) == (4, 4)
    assert "the agent cannot do this" in peers.err
    assert "on your workstation" in peers.err
    assert "the bundle does not bring the plain model" in plain.err
    assert "on the workstation, with --with-plain" in plain.err


SHORT = ("--rounds", 3, "--seconds", 0.1, "--allow-noise", "--json")


def test_a_bundle_may_bring_the_plain_model(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "x.bundle.tar"
    done = call("bundle", exported.graph, "--with-plain", "-o", out, "--json")
    assert done.code == 0, done.err
    board = unpack(out, tmp_path / "board")

    assert agent(board, "build").code == 0
    measured = agent(board, "bench", "--against", "plain", *SHORT)
    named = agent(board, "bench", "model.cpu.onnx", "--against=plain", *SHORT)

    roles = {one["name"]: one["role"] for one in json.loads((board / INDEX).read_text())["files"]}
    assert (roles["plain.onnx"], roles["plain.manifest.json"]) == ("plain", "extra")
    assert "python3 agent.pyz bench --against plain" in (board / "README.txt").read_text()
    for one in (measured, named):
        assert one.code == 0, one.err
        assert one.document()["baseline"] == "plain.cpu"
        names = [contender["name"] for contender in one.document()["contenders"]]
        assert names == ["plain.cpu", "model.cpu"]
    assert "plain.onnx: without merging, fp32, random weights" in measured.err


def test_the_same_plain_model_makes_the_same_bundle(exported: Exported, tmp_path: Path) -> None:
    """Its name there is the bundle's hash: a broken upload goes on only then."""
    for name in ("a", "b"):
        done = call("bundle", exported.graph, "--with-plain", "-o", tmp_path / f"{name}.bundle.tar")
        assert done.code == 0, done.err

    assert (tmp_path / "a.bundle.tar").read_bytes() == (tmp_path / "b.bundle.tar").read_bytes()


def test_the_plain_model_of_an_unknown_architecture_is_a_sentence(
    exported: Exported, tmp_path: Path
) -> None:
    _, theirs = plain_vit.write(read_manifest(exported.graph), load_target("cpu"), tmp_path)
    manifest = dataclasses.replace(read_manifest(theirs), target="cpu")
    write_manifest(theirs, manifest)

    done = call("bundle", theirs, "--with-plain", "--json")

    assert done.code == 2
    assert "does not record its architecture" in done.error()["what"]
    assert not list(tmp_path.glob("*.tar"))


def test_a_file_that_an_option_takes_is_not_what_a_verb_is_about(board: Path) -> None:
    built = agent(board, "build", "-o", "mine.onnx")
    usual = agent(board, "build", "--force", "--out=model.cpu.onnx")
    measured = agent(board, "bench", "--against", "mine.onnx", *SHORT)

    assert (built.code, usual.code) == (0, 0), built.err + usual.err
    assert measured.code == 0, measured.err
    assert measured.document()["baseline"] == "mine"


def test_a_damaged_list_is_refused(board: Path) -> None:
    index = board / INDEX
    document = json.loads(index.read_text())
    document["target"] = "rtx"
    index.write_text(json.dumps(document, indent=1) + "\n")

    done = agent(board, "build", "--json")

    assert done.code == 10
    assert "its index is damaged" in done.error()["what"]


def test_an_old_python_is_told_so(tmp_path: Path) -> None:
    """`__main__.py` must compile and speak on any Python 3."""
    (tmp_path / "agent.pyz").write_bytes(build_agent())
    program = (
        "import runpy, sys; sys.version_info = (3, 6, 9); "
        "runpy.run_path('agent.pyz', run_name='__main__')"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip

    assert done.returncode == 4
    assert "needs Python 3.10, this is 3.6" in done.stderr
