"""Bundles: the same files give the same bytes, and whatever differs from the list is refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.errors import FpetError, InputError, TrustError, UsageError
from engines.transport.bundle import INDEX, Role, read_bundle, read_index, unpack, write_bundle

FILES: tuple[tuple[str, Role, bytes], ...] = (
    ("README.txt", "readme", b"read me\n"),
    ("model.manifest.json", "manifest", b"{}"),
    ("weights.bin", "companion", bytes(range(256)) * 40),
    ("empty.txt", "extra", b""),
    ("model.onnx", "artefact", b"\x08\x0a" * 600),
)


def files_in(folder: Path) -> list[tuple[Path, Role]]:
    folder.mkdir(exist_ok=True)
    for name, _, content in FILES:
        (folder / name).write_bytes(content)
    return [(folder / name, role) for name, role, _ in FILES]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    out = folder / "model.bundle.tar"
    write_bundle(out, files_in(folder / "in"), target="cpu", tools={"numpy": "2", "a": "1"})
    return out


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], kind: int) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for information, content in members:
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return path


def members_of(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


# Whole


def test_what_goes_in_comes_out(bundle: Path, tmp_path: Path) -> None:
    found = read_bundle(bundle)
    artefact = unpack(bundle, tmp_path / "out")

    assert found.target == "cpu"
    assert found.artefact == "model.onnx"
    assert found.names("companion") == ("weights.bin",)
    assert artefact == tmp_path / "out" / "model.onnx"
    names = {INDEX, *(name for name, _, _ in FILES)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert read_index(tmp_path / "out" / INDEX) == found
    for name, _, content in FILES:
        assert (tmp_path / "out" / name).read_bytes() == content


def test_any_tar_unpacks_it(bundle: Path) -> None:
    members = members_of(bundle)

    assert [member.name for member, _ in members] == [INDEX, *(name for name, _, _ in FILES)]
    assert [content for _, content in members[1:]] == [content for _, _, content in FILES]
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname) for m, _ in members} == {(0o644, 0, 0, 0, "")}


def test_the_same_files_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    write_bundle(again, files_in(tmp_path / "in"), target="cpu", tools={"a": "1", "numpy": "2"})

    assert again.read_bytes() == bundle.read_bytes()


def test_nothing_is_replaced_without_force(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")

    with pytest.raises(UsageError, match=r"model\.onnx exists already"):
        unpack(bundle, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    unpack(bundle, tmp_path, force=True)
    assert (tmp_path / "model.onnx").read_bytes() == FILES[-1][2]


def test_a_link_in_the_way_is_replaced_and_not_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").symlink_to(tmp_path / "precious")

    unpack(bundle, tmp_path / "out", force=True)

    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "out" / "model.onnx").is_symlink()


@pytest.mark.parametrize("name", ["a b.onnx", "-rf.onnx", ".hidden", "ü.onnx", INDEX, "a" * 101])
def test_a_name_that_a_bundle_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")

    with pytest.raises(InputError, match="cannot be bundled"):
        write_bundle(tmp_path / "o.tar", [(tmp_path / name, "artefact")], target="cpu", tools={})


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder, name in (("a", "model.onnx"), ("b", "Model.onnx")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"x")

    with pytest.raises(UsageError, match="two files"):
        write_bundle(
            tmp_path / "o.tar",
            [(tmp_path / "a/model.onnx", "artefact"), (tmp_path / "b/Model.onnx", "extra")],
            target="cpu",
            tools={},
        )


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_bundle(tmp_path / "absent.tar")


# Surprises


def repacked(bundle: Path, out: Path, changes: dict[str, object]) -> Path:
    """A tar with one member changed, as an attacker with `tarfile` would make it."""
    members = members_of(bundle)
    for member, _ in members:
        if member.name == "model.onnx":
            for key, value in changes.items():
                setattr(member, key, value)
    return write_tar(out, members, tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../model.onnx"},
        {"name": "/etc/model.onnx"},
        {"name": "other.onnx"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "README.txt"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.FIFOTYPE},
        {"mode": 0o4755},
        {"uid": 1000},
        {"mtime": 1},
        {"uname": "root"},
    ],
    ids=str,
)
def test_a_member_that_is_not_as_listed_is_refused(
    changes: dict[str, object], bundle: Path, tmp_path: Path
) -> None:
    changed = repacked(bundle, tmp_path / "changed.tar", changes)

    with pytest.raises(TrustError, match="the bundle is refused"):
        unpack(changed, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_the_same_members_repacked_are_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    """The control of the test above; `tarfile` fills up to 10 KiB, which is cut off here."""
    same = repacked(bundle, tmp_path / "same.tar", {})
    content = same.read_bytes()[: bundle.stat().st_size]

    assert content == bundle.read_bytes()


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_another_kind_of_tar_is_refused(kind: int, bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    members[-1][0].pax_headers = {"comment": "hidden"}

    with pytest.raises(TrustError):
        read_bundle(write_tar(tmp_path / "other.tar", members, kind))


def test_an_additional_member_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = [*members_of(bundle), (tarfile.TarInfo("more.txt"), b"more")]

    with pytest.raises(TrustError, match="after the last file"):
        read_bundle(write_tar(tmp_path / "more.tar", members, tarfile.USTAR_FORMAT))


@pytest.mark.parametrize("tail", [b"\0", b"x", bytes(512)])
def test_a_byte_behind_the_end_is_refused(tail: bytes, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "tail.tar").write_bytes(bundle.read_bytes() + tail)

    with pytest.raises(TrustError, match="after the last file"):
        read_bundle(tmp_path / "tail.tar")


def sealed(document: dict[str, object]) -> bytes:
    """The text of a list with its own hash, as an attacker would compute it too."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    own = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    return (json.dumps({**rest, "sha256": own}, indent=1) + "\n").encode()


def test_the_seal_of_these_tests_is_that_of_a_bundle(bundle: Path) -> None:
    text = members_of(bundle)[0][1]

    assert sealed(json.loads(text)) == text


def change_index(bundle: Path, out: Path, text: bytes) -> Path:
    members = members_of(bundle)
    members[0] = (members[0][0], text)
    return write_tar(out, members, tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../evil"),
        ("name", "a/b"),
        ("name", "README.txt"),
        ("name", 7),
        ("name", INDEX),
        ("role", "executable"),
        ("role", "artefact"),
        ("size_bytes", -1),
        ("size_bytes", True),
        ("size_bytes", 1e3),
        ("size_bytes", 8**11),
        ("sha256", "0" * 63),
        ("sha256", None),
    ],
)
def test_a_list_with_an_impossible_entry_is_refused(
    key: str, value: object, bundle: Path, tmp_path: Path
) -> None:
    document = json.loads(members_of(bundle)[0][1])
    document["files"][1][key] = value

    with pytest.raises(TrustError, match="its index is damaged") as caught:
        read_bundle(change_index(bundle, tmp_path / "changed.tar", sealed(document)))

    assert "own hash" not in caught.value.what


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"schema": 2}', b"[" * 100_000])
def test_a_list_that_is_none_is_refused(text: bytes, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        read_bundle(change_index(bundle, tmp_path / "changed.tar", text))


def test_a_list_in_other_words_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A key twice, another order, other blanks: what is not ours may mean two things."""
    document = json.loads(members_of(bundle)[0][1])
    text = json.dumps(document).encode()

    with pytest.raises(TrustError, match="does not match its own hash"):
        read_bundle(change_index(bundle, tmp_path / "changed.tar", text))


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_is_refused(
    place: int, bit: int, bundle: Path, tmp_path: Path
) -> None:
    content = bytearray(bundle.read_bytes())
    content[place % len(content)] ^= 1 << bit
    (tmp_path / "flipped.tar").write_bytes(content)

    with pytest.raises(FpetError):
        unpack(tmp_path / "flipped.tar", tmp_path / "out")

    assert not list((tmp_path).glob("out/*"))


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_bundle_is_refused(share: float, bundle: Path, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    (tmp_path / "short.tar").write_bytes(content[: int(share * len(content))])

    with pytest.raises(TrustError):
        read_bundle(tmp_path / "short.tar")


def test_two_files_swapped_are_refused(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    members[1], members[2] = members[2], members[1]

    with pytest.raises(TrustError, match="is not where the index places it"):
        read_bundle(write_tar(tmp_path / "swapped.tar", members, tarfile.USTAR_FORMAT))


# The folder of tasks


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with two files in `tasks/`."""
    folder = tmp_path_factory.mktemp("nested")
    out = folder / "many.bundle.tar"
    write_nested(folder, out)
    return out


def write_nested(folder: Path, out: Path, **more: bytes) -> None:
    tasks: list[tuple[Path, Role]] = []
    (folder / "deltas").mkdir(exist_ok=True)
    for name in ("pets.safetensors", "pets.check.npz"):
        (folder / "deltas" / name).write_bytes(name.encode() * 70)
        tasks.append((folder / "deltas" / name, "companion"))
    files = files_in(folder / "in")
    for name, content in more.items():
        (folder / "in" / name).write_bytes(content)
        files.append((folder / "in" / name, "extra"))
    write_bundle(out, files, tasks=tasks, target="cpu", tools={})


NESTED = {"tasks/pets.safetensors", "tasks/pets.check.npz"}


def test_files_of_tasks_keep_their_folder(nested: Path, tmp_path: Path) -> None:
    found = read_bundle(nested)
    artefact = unpack(nested, tmp_path / "out")

    assert set(found.names("companion")) == {"weights.bin", *NESTED}
    assert artefact == tmp_path / "out" / "model.onnx"
    for name in NESTED:
        assert (tmp_path / "out" / name).read_bytes() == Path(name).name.encode() * 70
    assert read_index(tmp_path / "out" / INDEX) == found


def test_any_tar_unpacks_the_folder(nested: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", str(nested)], cwd=tmp_path, check=True)

    assert {f"tasks/{path.name}" for path in (tmp_path / "tasks").iterdir()} == NESTED


def test_an_older_version_reads_every_bundle_without_the_folder(bundle: Path, nested: Path) -> None:
    """What it cannot read says another schema, not that it is damaged."""
    assert json.loads(members_of(bundle)[0][1])["schema"] == 1
    assert json.loads(members_of(nested)[0][1])["schema"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "tasks/../evil", "tasks/./evil", "tasks//evil", "tasks/", "tasks/a/b", "/tasks/a",
        "../tasks/a", "Tasks/a", "tasks\\a", "other/a", "tasks/.hidden", "tasks/-rf", "tasks",
        "TASKS", "tasks/" + "a" * 95,
    ],
)  # fmt: skip
def test_no_other_folder_is_made(name: str, nested: Path, tmp_path: Path) -> None:
    document = json.loads(members_of(nested)[0][1])
    document["files"][-1 if "tasks" in name.lower().split("/")[0:1] else 0]["name"] = name

    with pytest.raises(TrustError, match="its index is damaged") as caught:
        unpack(change_index(nested, tmp_path / "changed.tar", sealed(document)), tmp_path / "out")

    assert "own hash" not in caught.value.what
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("which", "schema"), [("bundle", 2), ("nested", 1), ("nested", 3)])
def test_a_list_of_another_schema_than_its_names_is_refused(
    which: str, schema: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(which)
    document = json.loads(members_of(path)[0][1])
    document["schema"] = schema

    with pytest.raises(TrustError, match="its index is damaged") as caught:
        read_bundle(change_index(path, tmp_path / "changed.tar", sealed(document)))

    assert "own hash" not in caught.value.what


def test_the_artefact_does_not_hide_in_the_folder(nested: Path, tmp_path: Path) -> None:
    document = json.loads(members_of(nested)[0][1])
    document["files"][0]["role"], document["files"][-1]["role"] = "artefact", "extra"

    with pytest.raises(TrustError, match="its artefact lies in tasks/"):
        read_bundle(change_index(nested, tmp_path / "changed.tar", sealed(document)))


def test_a_file_called_like_the_folder_is_not_bundled_with_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two files of the bundle are called tasks"):
        write_nested(tmp_path, tmp_path / "o.tar", tasks=b"x")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_nothing_is_written_through_what_lies_in_the_folder_s_place(
    kind: str, force: bool, nested: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    if kind == "file":
        (out / "tasks").write_bytes(b"mine")
    else:
        (out / "tasks").symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()

    with pytest.raises(InputError, match="tasks is a"):
        unpack(nested, out, force=force)

    assert [path.name for path in out.iterdir()] == ["tasks"]
    assert not elsewhere.exists() or not list(elsewhere.iterdir())


def test_what_lies_in_the_folder_is_replaced_with_force_alone(nested: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/pets.safetensors").write_bytes(b"mine")
    (tmp_path / "tasks/other").write_bytes(b"mine")

    with pytest.raises(UsageError, match=r"pets\.safetensors exists already"):
        unpack(nested, tmp_path)
    unpack(nested, tmp_path, force=True)

    assert (tmp_path / "tasks/pets.safetensors").read_bytes() != b"mine"
    assert (tmp_path / "tasks/other").read_bytes() == b"mine"
