"""A sweep on a worker inside the test process: shared work, resuming, changes, failures, files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import fpet_export
from engines.errors import FpetError
from fpet_export.steps import measuring
from fpet_export.sweep import grid
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.store import Store
from tests.calibration.exports import images_of
from tests.fpet_export.command_line import Done, Exported, call, write_shard
from tests.fpet_export.tiny import SIDE

GRID = ("--targets", "cpu,openvino", "--precisions", "fp32,int8", "--merges", "none,fpet@1")


def smooth_shard(path: Path, count: int) -> Path:
    """Write images that a calibration does not take for noise."""
    return write_shard(path, count, images=images_of(count, side=SIDE).pixels)


class Files:
    """A sweep of the session's tiny run, with images of its own."""

    def __init__(self, exported: Exported, folder: Path, scheduler: str) -> None:
        self.exported, self.scheduler = exported, scheduler
        self.out = folder / "sweep"
        self.images = smooth_shard(folder / "images.npz", 24)

    def sweep(self, *words: object, bench: bool = False) -> Done:
        run, *backbone = self.exported.words
        more = () if bench else ("--no-bench",)
        return call(
            "sweep", f"tiny={run}", *backbone, "--data", self.images, "-o", self.out,
            "--scheduler", self.scheduler, *more, *words,
        )  # fmt: skip

    def began(self) -> list[str]:
        return [line["step"] for line in Store(self.out).ledger() if line["event"] == "began"]

    def points(self) -> dict[str, Any]:
        files = sorted((self.out / "points").glob("*.json"))
        return {file.stem: json.loads(file.read_text()) for file in files}


@pytest.fixture
def files(exported: Exported, tmp_path: Path, scheduler: str) -> Files:
    return Files(exported, tmp_path, scheduler)


@pytest.fixture(scope="module")
def whole(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory, scheduler: str
) -> tuple[Files, Done]:
    """A sweep of eight points that no test changes."""
    files = Files(exported, tmp_path_factory.mktemp("whole"), scheduler)
    words = ("--rounds", 20, "--seconds", 0, "--allow-noise", "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "ATTEMPTS", 1)  # the machine may be as busy as it likes
        return files, files.sweep(*GRID, *words, bench=True)


def kinds(names: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        kind = name.partition("/")[0]
        found[kind] = found.get(kind, 0) + 1
    return found


def test_points_share_their_work(whole: tuple[Files, Done]) -> None:
    files, done = whole

    assert done.code == 0, done.err
    # cpu and openvino want one float32 graph, and different INT8 weights.
    counts = {"reference": 1, "export": 2, "quantize": 4, "engine": 8, "measure": 8}
    assert kinds(files.began()) == counts
    assert len(set(files.began())) == len(files.began())


def test_every_point_has_its_result(whole: tuple[Files, Done]) -> None:
    files, done = whole

    points = files.points()
    document = done.document()
    assert len(points) == len(document["points"]) == 8
    for point in document["points"]:
        where = point["point"]
        name = "tiny,{merge},b{batch},{precision},{target}".format(**where)
        of_file = points[name]
        assert {**of_file, "on_front": point["on_front"]} == point
        assert point["schema"] == 1
        assert (point["state"], point["error"]) == ("done", None)
        assert point["images"] == 12  # the other half has calibrated
        assert 0 <= point["agreement"] <= 1
        assert point["latency"]["p50_ns"] > 0
        assert (files.out / point["latency"]["file"]).is_file()
        assert (files.out / point["engine"]).is_file()
    merged, plain = (points[f"tiny,{merge},b1,fp32,cpu"]["macs"] for merge in ("fpet@1", "none"))
    assert merged < plain
    trained = points["tiny,fpet@1,b1,fp32,cpu"]  # as it was trained: the same answers
    assert trained["agreement"] == 1
    assert trained["accuracy"] == trained["reference_accuracy"]


def test_the_table_is_there_for_programs_and_for_texts(whole: tuple[Files, Done]) -> None:
    files, _ = whole

    with (files.out / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["done"] * 8
    of_first = files.points()["tiny,none,b1,fp32,cpu"]
    assert float(rows[0]["p50_ms"]) == of_first["latency"]["p50_ns"] / 1e6
    table = (files.out / "sweep.md").read_text().splitlines()
    assert len([line for line in table if line.startswith("|")]) == 10
    assert "All points" in (files.out / "report.html").read_text()


def test_the_same_command_again_computes_nothing(whole: tuple[Files, Done]) -> None:
    files, done = whole
    before = files.began()

    again = files.sweep(
        *GRID, "--rounds", 20, "--seconds", 0, "--allow-noise", "--json", bench=True
    )

    assert again.code == 0
    assert again.document() == done.document()
    run, _, backbone = files.exported.words
    found = fpet_export.sweep_runs(
        f"tiny={run}", out=files.out, backbone=backbone, data=str(files.images), rounds=20,
        seconds=0, allow_noise=True, scheduler=files.scheduler, targets="cpu,openvino",
        precisions="fp32,int8", merges="none,fpet@1",
    )  # fmt: skip
    assert found.to_json() == done.document()
    assert files.began() == before


def test_a_larger_grid_computes_what_is_new_and_says_so(files: Files) -> None:
    assert files.sweep("--merges", "none").code == 0
    before = files.began()

    done = files.sweep("--merges", "none,fpet@1", "--targets", "openvino,cpu")

    assert done.code == 0, done.err
    assert (files.out / "tiny.b1.png").is_file()
    assert (files.out / "report.html").read_text().count("data:image/png") == 1
    assert "--merges was none the last time" in done.err
    assert "3 points were not in it" in done.err
    # The export that was made for cpu serves openvino.
    assert kinds(files.began()[len(before) :]) == {"export": 1, "engine": 3}
    smaller = files.sweep("--merges", "fpet@1")
    assert "3 results of it stay and are not shown" in smaller.err
    assert len(files.began()) == len(before) + 4


def test_another_run_or_other_images_are_said_and_not_mixed(files: Files) -> None:
    assert files.sweep().code == 0
    before = files.began()
    smooth_shard(files.images, 32)

    refused = files.sweep("--json")

    error = refused.error()
    assert error["class"] == "UsageError"
    assert f"{files.images} has changed" in error["what"]
    assert files.began() == before
    forced = files.sweep("--force", "--json")
    assert forced.code == 0
    assert forced.document()["points"][0]["images"] == 32
    assert kinds(files.began()[len(before) :]) == {"reference": 1, "export": 1, "engine": 1}


def test_other_settings_are_said(files: Files) -> None:
    assert files.sweep().code == 0

    error = files.sweep("--limit", 4, "--json").error()

    assert "limit was 128, now 4" in error["what"]
    assert "--force" in error["fix"]


def test_a_point_that_fails_is_a_result(files: Files) -> None:
    done = files.sweep("--merges", "none,fpet@7", "--json")

    assert done.code == 2  # as `export --merge fpet@7` ends
    points = files.points()
    failed = points["tiny,fpet@7,b1,fp32,cpu"]
    assert failed["state"] == "failed"
    assert failed["failed_in"] == "export/tiny,fpet@7,b1,opset20-folded-class-token"
    assert "7" in failed["error"]["what"]
    assert failed["error"]["exit_code"] == 2
    assert points["tiny,none,b1,fp32,cpu"]["state"] == "done"
    before = files.began()
    assert files.sweep("--merges", "none,fpet@7").code == 2
    assert files.began() == before
    assert files.sweep("--merges", "none,fpet@7", "--retry-failed").code == 2
    assert files.began()[len(before) :] == [failed["failed_in"]]


def test_a_bug_in_a_point_is_a_result(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one over none")

    monkeypatch.setattr("fpet_export.sweep.steps.build", broken)

    done = files.sweep()

    (point,) = files.points().values()
    assert done.code == point["error"]["exit_code"] == 1
    assert "one over none" in point["error"]["traceback"]


def test_runs_have_names_and_images_of_their_own(files: Files) -> None:
    run, *backbone = files.exported.words
    other = smooth_shard(files.images.with_name("other.npz"), 10)

    done = call(
        "sweep", f"one={run}", f"two={run}", *backbone, "--no-bench", "-o", files.out,
        "--data", f"one={files.images}", "--data", f"two={other}", "--scheduler", files.scheduler,
    )  # fmt: skip

    assert done.code == 0, done.err
    assert {point["point"]["run"]: point["images"] for point in files.points().values()} == {
        "one": 24,
        "two": 10,
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--targets", "cpu,rtx4090"), 2, ["rtx4090"]),
        (("--precisions", "fp32,fp8"), 2, ["cpu does not run fp8"]),
        (("--precisions", "fp31"), 2, ["'fp31' is not one of"]),
        (("--merges", "none,auto"), 2, ["auto"]),
        (("--merges", "late"), 2, ["late"]),
        (("--rounds", 3), 2, ["3 rounds are too few"]),
        (("--no-bench", "--against", "plain"), 2, ["nothing is measured"]),
        (("--max-drop", 1), 2, ["fp32 has no layer"]),
        (("--workers", 2, "--scheduler", "tcp://far:1"), 2, ["a scheduler brings its own"]),
        (("--data", "two=images"), 3, ["no such file"]),
    ],
)
def test_a_grid_without_sense_is_refused(
    exported: Exported, tmp_path: Path, words: tuple[object, ...], code: int, said: list[str]
) -> None:
    pytest.importorskip("distributed", reason="needs dask: the extra sweep")

    done = call("sweep", *exported.words, "-o", tmp_path / "out", *words, "--json")

    error = done.error()
    assert done.code == code
    assert all(text in error["what"] for text in said), error
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_named_at_once(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs dask: the extra sweep")
    grid_ = ("--targets", "cpu,nowhere,openvino", "--precisions", "fp16,int8", "--rounds", 2)

    error = call("sweep", *exported.words, *grid_, "-o", tmp_path / "out", "--json").error()

    for text in ("nowhere", "cpu does not run fp16", "openvino does not run fp16",
                 "int8 needs images", "2 rounds are too few"):  # fmt: skip
        assert text in error["what"]


def test_a_scheduler_that_does_not_answer_is_named(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs dask: the extra sweep")
    monkeypatch.setattr("fpet_export.sweep.cluster._CONNECT_S", 0.2)

    words = ("-o", tmp_path / "out", "--scheduler", "tcp://192.0.2.1:9")
    error = call("sweep", *exported.words, *words, "--json").error()

    assert (error["class"], error["exit_code"]) == ("RemoteError", 11)
    assert "tcp://192.0.2.1:9" in error["where"]


def test_two_sweeps_do_not_share_a_folder(files: Files) -> None:
    with Store(files.out).alone():
        error = files.sweep("--json").error()

    assert "another sweep" in error["what"]


def test_a_damaged_record_is_refused(files: Files) -> None:
    assert files.sweep().code == 0
    (record,) = (files.out / "work" / "engine").glob("*/record.json")
    record.write_text(record.read_text()[:-20])

    error = files.sweep("--json").error()

    assert error["class"] == "TrustError"
    assert str(record) in error["where"]


def test_names_of_points_are_names_of_files() -> None:
    request = SweepRequest(
        runs=("a=random:test_vit:0",), out=Path("out"), merges=("none", "fpet@2"), batches=(1, 8)
    )

    names = [point.name for point in grid.points_of(request)]

    assert names == [
        f"a,{merge},b{batch},fp32,cpu" for merge in ("none", "fpet@2") for batch in (1, 8)
    ]
    assert grid._slug("x:y/z") != grid._slug("x_y_z")
    assert "/" not in grid._slug("x:y/z")
    with pytest.raises(FpetError, match="two runs are called"):
        grid.names_of(SweepRequest(runs=("a/run.pth", "b/run.pth"), out=Path("out")))
