"""Files of tensors, read without running what is in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch

from engines.errors import CheckpointError

_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a flat dictionary of tensors from `.pth`, `.pt` or `.safetensors`.

    A `.pth` is unpickled with `weights_only=True` after its archive's checksums were verified.
    A dictionary wrapped in the usual "model" or "state_dict" key is unwrapped.

    Raises:
        CheckpointError: The file is absent, damaged, of another kind, or wants to run code.
    """
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), fix="check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"this is not a whole safetensors file: {error}",
            where=str(path),
            fix="fetch the file again",
        ) from error


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    verify_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about kinds of tensors refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own first line advises to switch the protection off: never repeat it.
        wanted = re.search(r"GLOBAL:? ?(?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
        raise CheckpointError(
            f"the pickle wants to run code ({wanted[1]}); only tensors are read"
            if wanted
            else "this pickle is damaged or holds more than tensors; only tensors are read",
            where=str(path),
            fix="load it in the environment that made it and save plain tensors: "
            "torch.save(model.state_dict(), path)",
        ) from error
    # A damaged pickle stream raises almost any exception inside torch's own unpickler.
    except Exception as error:
        raise CheckpointError(
            f"this is not a whole PyTorch file: {_first_line(error)}",
            where=str(path),
            fix="fetch the file again",
        ) from error
    return _flat(content, path)


def verify_archive(path: Path) -> None:
    """Check the checksums of a zip archive, which torch and numpy do not or do too late.

    Raises:
        CheckpointError: A member is damaged.
    """
    if not zipfile.is_zipfile(path):
        return  # the format of before PyTorch 1.6, or no checkpoint at all: torch.load decides
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # A damaged header sends zipfile into any of its decompressors and parsers.
    except Exception as error:
        raise CheckpointError(
            f"the archive is damaged: {_first_line(error)}",
            where=str(path),
            fix="fetch the file again",
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"the archive is damaged: {damaged}", where=str(path), fix="fetch the file again"
        )


def _flat(content: object, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            inner = content.get(wrapper)
            if isinstance(inner, dict) and inner:
                content = inner
                break
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    ):
        raise CheckpointError(
            f"wanted a dictionary of tensors, found {type(content).__name__}",
            where=str(path),
            fix="save plain tensors: torch.save(model.state_dict(), path)",
        )
    odd = sorted(name for name, tensor in content.items() if not _is_plain(tensor))
    if odd:
        raise CheckpointError(
            f"{odd[0]} is not a plain tensor of real numbers",
            where=str(path),
            fix="save dense tensors on the CPU, neither quantized nor sparse nor complex",
        )
    return {name: tensor.detach() for name, tensor in content.items()}


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
