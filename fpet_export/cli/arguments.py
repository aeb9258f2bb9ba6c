"""Arguments that several verbs share, and what they mean."""

from __future__ import annotations

import argparse
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from engines import form, verdict
from engines.errors import UsageError
from fpet_export.model import normalisation
from fpet_export.request_fields import require_merge, require_stated_merge

_CLASS_NAMES = "text file with one class name per line, in the order of the head's rows"


def add_run(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Add RUN and everything that describes a run."""
    if positional:
        parser.add_argument(
            "run",
            metavar="RUN",
            help="folder or file of a run or of a whole model, DIR/NAME, or random:NAME:SEED",
        )
    group = parser.add_argument_group("the run (needed only where its files do not state it)")
    group.add_argument(
        "--backbone",
        metavar="SPEC",
        help=".npz, .safetensors, .pth or .bin file, folder of a Hugging Face model, timm:NAME, or "
        "random:NAME:SEED",
    )
    group.add_argument(
        "--merge-block",
        type=_merge_block,
        metavar="N|none",
        help="0-based block after whose attention tokens merge",
    )
    group.add_argument("--method", help="the tuning method, as inspect calls it: lora, …")
    group.add_argument("--bit", type=int, help="bits of the stored adapter: 1, 2, 4, 8 or 32")
    group.add_argument(
        "--rank",
        "--dim",
        dest="rank",
        type=int,
        help="rank of LoRA, bottleneck width of AdaptFormer",
    )
    group.add_argument("--scale", type=float, help="the method's scale")
    group.add_argument(
        "--alpha", type=float, help="LoRA's alpha; the update is multiplied by alpha / rank"
    )
    group.add_argument(
        "--channel-shuffle",
        choices=("on", "off"),
        help="whether Consolidator was trained with it (its released script: off)",
    )
    group.add_argument(
        "--qkv-slots",
        choices=("q", "k", "v", "qk", "qv", "kv"),
        help="which of q, k and v a MergedLinear of loralib updates (its enable_lora)",
    )
    group.add_argument("--config", type=Path, metavar="YAML", help="the run's configuration")
    group.add_argument("--heads", type=int, help="attention heads of the backbone")
    group.add_argument(
        "--image",
        type=_size,
        metavar="HxW",
        help="input size: of a grid that is not square, or another one, to which positions are "
        "resampled",
    )
    group.add_argument(
        "--pool",
        choices=("token", "avg"),
        help="what the head reads: the class token, or the mean over the patches",
    )
    group.add_argument(
        "--arch",
        metavar="NAME",
        help="timm's name of the architecture, where no config.json beside the weights says it",
    )
    group.add_argument(
        "--weights",
        metavar="raw|ema|teacher|student",
        help="which set of weights, of a file that holds several",
    )
    group.add_argument(
        "--head-weights",
        type=Path,
        metavar="FILE",
        help="the trained head, of a run whose own files do not hold it (prompts of VPT)",
    )
    group.add_argument(
        "--gate",
        metavar="KEY=VALUE,…",
        help="how thresholds of TS-PEFT are read where the paper leaves it open: "
        "norm=relative|absolute, bias=with|without (in the output's length), fused=thirds|whole "
        "(one threshold of a fused qkv), epsilon=E, suffix=.ts_threshold (of their names); the "
        "first of each is the default",
    )
    group.add_argument(
        "--normalisation",
        type=_normalisation,
        metavar="none|imagenet|half|clip|M,M,M/S,S,S",
        help="mean and std of pixels in 0..1 (known for runs of the authors' FPET code, which has "
        "none, and where a file beside the backbone states it; otherwise required)",
    )
    group.add_argument(
        "--decode",
        choices=("full", "plain"),
        help="full applies EXIF orientation and transparency, plain ignores both as the "
        "authors' code does (default: plain for runs of their format, else full)",
    )
    group.add_argument(
        "--background",
        type=_colour,
        metavar="white|black|R,G,B",
        help="colour behind transparent pixels (default: white)",
    )
    group.add_argument(
        "--head",
        choices=("logits", "features", "tokens"),
        help="what the network gives: logits; features, which a head would read; or the tokens of "
        "all patches (default: logits; the others need no classifier)",
    )


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the merge, or a search for one."""
    search = "; auto searches the fastest one that keeps --max-drop and --min-agreement on --data"
    _add_merge(parser, "auto|", require_merge, search)


def add_stated_merge(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the merge."""
    _add_merge(parser, "", require_stated_merge, "")


def _add_merge(
    parser: argparse.ArgumentParser, more: str, require: Callable[[str, str], None], search: str
) -> None:
    group = parser.add_argument_group("the merge (default: as the run was trained)")
    group.add_argument(
        "--merge",
        type=functools.partial(_merge, require),
        metavar=f"{more}none|fpet@N|tome:r=N|diffrate:FILE",
        help="whatever the run was trained with: fpet@N merges half of the patches after the "
        "attention of block N; tome:r=N merges N tokens in every block (tome:r=N@3-9 in some, "
        f"tome:r=N,decreasing on a slope); diffrate:FILE follows a schedule{search}",
    )


def add_graph(parser: argparse.ArgumentParser) -> None:
    """Add the options of the exported graph."""
    group = parser.add_argument_group("the graph")
    add_images(group)
    group.add_argument(
        "--ties",
        choices=("argmax", "reference"),
        default="argmax",
        help="keep every token, or drop tied ones as the published rule does",
    )
    group.add_argument(
        "--opset",
        type=positive,
        metavar="N",
        help="ONNX opset, up to what the target reads (default: the target's; see `targets`)",
    )
    group.add_argument(
        "--last-block",
        choices=("class-token", "all-tokens"),
        help="what the last block computes (default: the target's choice)",
    )


def add_images(group: argparse._ActionsContainer) -> None:
    """Add what the graph takes: how many images, and in which form."""
    group.add_argument(
        "--batch",
        type=_batch,
        default=1,
        metavar="N|dyn:LO-HI",
        help="images per inference, or a dynamic range (default: 1)",
    )
    group.add_argument(
        "--input",
        choices=("float32", "uint8", "uint8-nchw", "uint8-nhwc"),
        default="float32",
        help="float32 pixels in 0..1 NCHW, or raw bytes (uint8 is uint8-nhwc)",
    )


def add_data(
    parser: argparse.ArgumentParser,
    *,
    limit: int | None = 128,
    by: Literal["task", "run"] | None = None,
) -> None:
    """Add the images that a check runs on, `limit` of them unless the user says otherwise.

    None leaves it to `fpet_export.steps.parity_images`.

    With `by` they may be given for single tasks of a folder, or for single runs; see
    `fpet_export.tasks.by_task`.
    """
    group = parser.add_argument_group("the check")
    what = "images: folder, list, CSV or .npz (see docs/data.md); default: a synthetic set"
    if by is not None:
        folder = "With a folder of tasks: for" if by == "task" else "For"
        several = f"{folder} one {by}, or for all; may be repeated"
        group.add_argument(
            "--data",
            action="append",
            default=[],
            metavar=f"[{by.upper()}=]SET",
            help=f"{what}. {several}",
        )
        group.add_argument(
            "--labels",
            action="append",
            default=[],
            metavar=f"[{by.upper()}=]FILE",
            help=f"{_CLASS_NAMES}. {several}",
        )
    else:
        group.add_argument("--data", type=Path, metavar="SET", help=what)
        group.add_argument("--labels", type=Path, metavar="FILE", help=_CLASS_NAMES)
    default = f"{limit}" if limit is not None else "as many as the gates need, docs/checks.md"
    group.add_argument(
        "--limit",
        type=positive,
        default=limit,
        help=f"images to check, at most (default: {default})",
    )
    add_skip_bad(group)


def add_judged(parser: argparse.ArgumentParser) -> argparse._ActionsContainer:
    """Add images that answers are judged on, all of them unless the user says otherwise."""
    group = parser.add_argument_group("the answers")
    group.add_argument(
        "--data",
        type=Path,
        metavar="SET",
        help="also judge the answers on these images: folder, list, CSV or .npz (see docs/data.md)",
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help=_CLASS_NAMES)
    group.add_argument("--limit", type=positive, help="images, at most (default: all)")
    add_skip_bad(group)
    return group


def add_skip_bad(group: argparse._ActionsContainer) -> None:
    """Add what happens with images that cannot be read."""
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images that cannot be read, list them, and exit 3 at the end",
    )


def add_output(
    parser: argparse.ArgumentParser,
    *,
    what: str,
    required: bool = False,
    force: str = "replace files that exist",
) -> None:
    """Add -o and --force, with what each does."""
    parser.add_argument("-o", "--out", type=Path, required=required, help=what)
    parser.add_argument("--force", action="store_true", help=force)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add how an artefact is opened."""
    group = parser.add_argument_group("how it runs")
    group.add_argument(
        "--provider",
        choices=("cpu", "cuda", "tensorrt"),
        help="what ONNX Runtime runs a graph on (default: the CPU, or what it was built for)",
    )
    group.add_argument(
        "--no-cuda-graph",
        action="store_true",
        help="launch a plan's kernels one by one, not as one CUDA graph",
    )
    group.add_argument(
        "--zero-copy",
        action="store_true",
        help="let the GPU use the host's memory in place of copies: for a Jetson, with a plan",
    )


def add_duration(
    group: argparse._ActionsContainer,
    *,
    noise: str = "keep a noisy measurement, marked as such, instead of exit code 9",
) -> None:
    """Add how long engines are measured; `noise` says what --allow-noise does."""
    group.add_argument("--threads", type=positive, help="CPU threads (default: physical cores)")
    group.add_argument("--rounds", type=positive, default=40, help="rounds at least (default: 40)")
    group.add_argument("--seconds", type=amount, default=3.0, help="seconds at least (default: 3)")
    group.add_argument("--allow-noise", action="store_true", help=noise)


def add_energy(group: argparse._ActionsContainer) -> None:
    """Add whether energy is measured."""
    group.add_argument(
        "--energy",
        action="store_true",
        help="also measure the energy of an image: each contender works for 10 s or more, in turns",
    )


def add_setting(group: argparse._ActionsContainer) -> None:
    """Add what a board is set to while it measures."""
    group.add_argument(
        "--power-mode",
        metavar="NAME",
        help="set a Jetson to this power mode while it measures, and restore it (doctor names "
        "them; default: as it is)",
    )
    group.add_argument(
        "--clocks",
        choices=("lock", "keep"),
        default="keep",
        help="lock holds a Jetson's clocks at the limits of its power mode while it measures, and "
        "restores them (default: keep, as they are)",
    )


def add_failed(parser: argparse.ArgumentParser) -> None:
    """Add the way to use what failed its check."""
    parser.add_argument(
        verdict.FLAG,
        action="store_true",
        help="use an artefact whose check failed; what is made from it counts as failed, too",
    )


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add the way to use a graph that was exported for a target of another form."""
    parser.add_argument(
        form.FLAG,
        action="store_true",
        help="accept a graph that was exported in another form than the target's",
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add which tasks of a folder are meant."""
    parser.add_argument(
        "--task",
        type=names,
        metavar="NAME[,NAME]",
        help="which tasks of a folder of tasks (default: all)",
    )


def _merge_block(text: str) -> int | str:
    if text == "none":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a block's number nor 'none'")
    return int(text)


def _merge(require: Callable[[str, str], None], text: str) -> str:
    try:
        require(text, "--merge")
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from error
    return text


def _normalisation(text: str) -> str:
    try:
        normalisation.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH")
    return int(found[1]), int(found[2] or found[1])


def _colour(text: str) -> tuple[int, int, int]:
    """Read a colour: a name, or three numbers from 0 to 255."""
    numbers = {"white": "255,255,255", "black": "0,0,0"}.get(text, text)
    parts = numbers.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not white, black or R,G,B from 0 to 255")
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


def _batch(text: str) -> int | tuple[int, int]:
    """Read a number of images, or the range of a dynamic one."""
    found = re.fullmatch(r"dyn:(\d+)-(\d+)", text)
    if found:
        low, high = int(found[1]), int(found[2])
        if not 1 <= low < high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a range from 1 upward")
        return low, high
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 nor dyn:LOW-HIGH")


def names(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def batches(text: str) -> tuple[int, int, int]:
    """Read smallest, tuned and largest batch, as "1:8:32"."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+)", text)
    if found is not None:
        low, best, high = (int(part) for part in found.groups())
        if 1 <= low <= best <= high:
            return low, best, high
    raise argparse.ArgumentTypeError(f"{text!r} is not MIN:OPT:MAX, rising from 1")


def sizes(text: str) -> tuple[int, ...]:
    """Read "1,8,64": each size once, rising."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) >= 1 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1, as 1,8,64")
    return tuple(sorted({int(word) for word in words}))


def percent(text: str) -> float:
    """Read "3%" or "3"."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of per cent, as 3%")
    return float(found[1])


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def amount(text: str) -> float:
    """Read a number from 0 that is finite: with infinity nothing ends, with NaN nothing fails."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number from 0")
    return value
