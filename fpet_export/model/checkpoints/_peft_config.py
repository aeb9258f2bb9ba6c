"""`adapter_config.json` of Hugging Face PEFT: every key is obeyed, or refused by its name.

What the keys mean is what PEFT 0.21 does with them: scales of LoRA and rsLoRA, patterns of ranks
and alphas, and which modules `target_modules` names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any, TypeVar

from engines.errors import CheckpointError
from fpet_export.model.facts import Fact

NAME = "adapter_config.json"
_N = TypeVar("_N", int, float)

_NO_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "fan_in_fan_out", "inference_mode", "lora_dropout", "lora_ga_config", "loftq_config",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
}  # fmt: skip
"""Keys that change no answer of a ViT, or only together with one that is judged.

`fan_in_fan_out` among them: PEFT itself puts it back to false for the linear layers of a ViT.
"""

_OBEYED = {
    "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_bias", "modules_to_save", "r", "rank_pattern",
    "target_modules", "use_dora", "use_rslora",
}  # fmt: skip

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the weights of the base model alone."""

_CLASSIFYING_TASKS = ("SEQ_CLS", "TOKEN_CLS")
_ADDED_BY_TASK = ("classifier", "score")
"""What PEFT itself puts into `modules_to_save` for these tasks."""

_RESIDUAL_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Those that move a part of the base weights into the adapter before training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What the file says.

    Attributes:
        path: The file.
        rank: `r`, of modules that `rank_pattern` does not name.
        alpha: `lora_alpha`, likewise.
        ranks: `rank_pattern` in the order of the file.
        alphas: `alpha_pattern`, likewise.
        rslora: Whether the scale is alpha / sqrt(r) instead of alpha / r.
        dora: Whether every adapted weight has a magnitude.
        bias: "none", "lora_only" or "all": which biases were trained too.
        lora_bias: Whether the second projection has a bias.
        targets: `target_modules`: names, or a regular expression.
        excluded: `exclude_modules`, likewise.
        layers: `layers_to_transform`: numbers of blocks; None for all.
        layers_pattern: What stands in front of those numbers; empty for anything.
        saved: `modules_to_save`.
        always_saved: Names among them that PEFT adds for the task, whether the model has them or
            not.
        base: `base_model_name_or_path`.
    """

    path: Path
    rank: int
    alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    rslora: bool
    dora: bool
    bias: str
    lora_bias: bool
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] | str
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    saved: tuple[str, ...]
    always_saved: tuple[str, ...]
    base: str | None

    def rank_of(self, module: str) -> int:
        """Return the rank of a module."""
        return _by_pattern(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor of a module's update."""
        rank = self.rank_of(module)
        divisor = math.sqrt(rank) if self.rslora else rank
        return _by_pattern(self.alphas, module, self.alpha) / divisor

    def adapts(self, module: str) -> bool:
        """Whether a linear layer of the base model has an adapter."""
        if _named(self.excluded, module) or any(
            re.match(rf"(^|.*\.){saved}($|\..*)", module) for saved in self.saved
        ):
            return False
        if not _named(self.targets, module):
            return False
        if self.layers is None or isinstance(self.targets, str) or module in self.targets:
            return True
        return self._layer_of(module) in self.layers

    def _layer_of(self, module: str) -> int | None:
        patterns = self.layers_pattern or (r"[^.]*",)
        for pattern in patterns:
            found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module)
            if found:
                return int(found[1])
        return None

    def title(self) -> str:
        """Return the method's name."""
        return ("rs" if self.rslora else "") + ("dora" if self.dora else "lora")

    def facts(self) -> dict[str, Fact[Any]]:
        """Return what was read, for `inspect`."""
        found: dict[str, Fact[Any]] = {
            "method": Fact(self.title(), NAME),
            "rank": Fact(self.rank, f"r in {NAME}"),
            "alpha": Fact(self.alpha, f"lora_alpha in {NAME}"),
            "trained biases": Fact(self.bias, f"bias in {NAME}"),
        }
        for name, pattern in (("rank pattern", self.ranks), ("alpha pattern", self.alphas)):
            if pattern:
                found[name] = Fact(pattern, NAME)
        return found


def read_config(path: Path) -> PeftConfig:
    """Read the file.

    Raises:
        CheckpointError: It cannot be read, is of another method, or has a key that this toolkit
            does not obey.
    """
    document = _parse(path)
    kind = document.get("peft_type")
    if kind != "LORA":
        raise _refusal(
            path,
            f"peft_type is {kind!r}; LORA is read, with DoRA and rsLoRA",
            "merge the adapter with PEFT (merge_and_unload), save the whole model, and export that",
        )
    _refuse_unknown(document, path)
    _refuse_start(document.get("init_lora_weights", True), path)
    read = _Reader(document, path)
    config = PeftConfig(
        path=path,
        rank=read.whole("r"),
        alpha=read.number("lora_alpha"),
        ranks=read.pattern("rank_pattern", int),
        alphas=read.pattern("alpha_pattern", float),
        rslora=read.truth("use_rslora"),
        dora=read.truth("use_dora"),
        bias=read.choice("bias", ("none", "all", "lora_only")),
        lora_bias=read.truth("lora_bias"),
        targets=read.modules("target_modules"),
        excluded=read.modules("exclude_modules"),
        layers=read.layers(),
        layers_pattern=read.words("layers_pattern"),
        saved=read.words("modules_to_save"),
        always_saved=_ADDED_BY_TASK if document.get("task_type") in _CLASSIFYING_TASKS else (),
        base=read.base(),
    )
    if config.targets == "all-linear":
        raise _refusal(
            path,
            "target_modules is 'all-linear', which PEFT replaces by names when it saves",
            "save the adapter with PEFT's save_pretrained",
        )
    return config


def _parse(path: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refusal(path, f"{NAME} cannot be read: {error}", "fetch the folder again") from error
    if not isinstance(document, dict):
        raise _refusal(
            path, f"it holds {type(document).__name__}, wanted an object", "fetch the folder again"
        )
    return document


def _refuse_unknown(document: dict[str, Any], path: Path) -> None:
    for key, value in document.items():
        if key not in _NO_EFFECT | _OBEYED and value not in (None, False, [], {}):
            raise _refusal(
                path,
                f"{key} is {value!r}, which this toolkit does not obey",
                "merge the adapter with PEFT (merge_and_unload), save the whole model, and export "
                "that",
            )


def _refuse_start(start: Any, path: Path) -> None:
    word = start.lower() if isinstance(start, str) else start
    if isinstance(word, str) and word.startswith(_RESIDUAL_STARTS):
        raise _refusal(
            path,
            f"init_lora_weights is {start!r}: before training it took a part of the base weights "
            "away, so the adapter does not belong to the original base model, and adding it there "
            "gives another model",
            "convert it with PEFT to a plain LoRA of the original weights "
            "(save_pretrained(…, path_initial_model_for_weight_conversion=…)), or save the merged "
            "model",
        )
    if word == "eva":
        raise _refusal(
            path,
            "init_lora_weights is 'eva': it redistributes ranks and scales after the configuration "
            "is made, and the folder does not show whether the patterns in it are the final ones",
            "merge the adapter with PEFT (merge_and_unload), save the whole model, and export that",
        )
    if word not in _PLAIN_STARTS:
        raise _refusal(
            path,
            f"init_lora_weights is {start!r}, which this toolkit does not know; it may have "
            "changed the base weights",
            "merge the adapter with PEFT (merge_and_unload), save the whole model, and export that",
        )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Fields of the document, each checked for its type."""

    document: dict[str, Any]
    path: Path

    def whole(self, key: str) -> int:
        value = self.document.get(key)
        if type(value) is not int or value < 1:
            raise self._wrong(key, "a whole number of at least 1")
        return value

    def number(self, key: str) -> float:
        value: Any = self.document.get(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(key, "a number")
        return float(value)

    def truth(self, key: str) -> bool:
        value = self.document.get(key)
        if value not in (None, True, False) or type(value) is int:
            raise self._wrong(key, "true or false")
        return bool(value)

    def choice(self, key: str, among: tuple[str, ...]) -> str:
        value = self.document.get(key, among[0])
        if value not in among:
            raise self._wrong(key, " or ".join(among))
        return str(value)

    def words(self, key: str) -> tuple[str, ...]:
        value = self.document.get(key)
        value = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._wrong(key, "a list of names")
        return tuple(sorted(value)) if key == "modules_to_save" else tuple(value)

    def base(self) -> str | None:
        """Return the base model, where it is named."""
        key = "base_model_name_or_path"
        value = self.document.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a name or a path")
        return value

    def modules(self, key: str) -> tuple[str, ...] | str:
        value = self.document.get(key)
        if not isinstance(value, str):
            return self.words(key)
        self._compiled(key, value)
        return value

    def layers(self) -> tuple[int, ...] | None:
        value = self.document.get("layers_to_transform")
        value = [value] if type(value) is int else value
        if value is None or value == []:
            return None
        if not isinstance(value, list) or not all(type(index) is int for index in value):
            raise self._wrong("layers_to_transform", "a list of block numbers")
        return tuple(value)

    def pattern(self, key: str, kind: type) -> dict[str, Any]:
        value = self.document.get(key) or {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        for name, number in value.items():
            self._compiled(key, name)
            if type(number) not in (int, kind) or not math.isfinite(number) or number <= 0:
                raise self._wrong(key, "positive numbers by module")
        return value

    def _compiled(self, key: str, expression: str) -> None:
        try:
            re.compile(expression)
        except re.error as error:
            raise self._wrong(key, f"regular expressions ({error})") from error

    def _wrong(self, key: str, wanted: str) -> CheckpointError:
        return _refusal(
            self.path,
            f"{key} is {self.document.get(key)!r}, wanted {wanted}",
            "fetch the folder again, or correct the file",
        )


def _by_pattern(patterns: dict[str, _N], module: str, otherwise: _N) -> _N:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _named(names: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _refusal(path: Path, what: str, fix: str) -> CheckpointError:
    return CheckpointError(what, where=str(path), fix=fix)
