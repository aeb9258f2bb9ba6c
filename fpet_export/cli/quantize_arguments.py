"""Arguments that decide a typed graph: precision, calibration, limits on accuracy."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import get_args

from engines import precisions
from engines.near_names import did_you_mean
from fpet_export import requests
from fpet_export.cli import arguments
from fpet_export.requests import OBSERVERS, SITES
from fpet_export.steps.typing_images import DEFAULT_CALIBRATION

DEFAULTS: dict[str, object] = {
    "preset": "vit-linear",
    "keep": (),
    "half": precisions.FP16,
    "calibration": None,
    "images": None,
    "table": [],
    "observer": {},
    "equalise": True,
    "max_drop": None,
    "min_sqnr": None,
    "min_agreement": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides a typed graph, besides `--precision`."""
    group = parser.add_argument_group("the typed graph")
    group.add_argument(
        "--io",
        choices=get_args(precisions.InputOutput),
        default=precisions.FP32,
        help="pixels and logits: float32, the graph's own type, or raw pixels (default: fp32)",
    )
    group.add_argument(
        "--preset",
        choices=("vit-linear", "vit-attention"),
        help="what INT8 and FP8 quantize: the linears of the blocks, or their attention too",
    )
    group.add_argument(
        "--keep",
        type=arguments.names,
        metavar="LAYER,LAYER",
        help="layers or blocks that stay in half precision, as blocks/0 or blocks/11/fc2",
    )
    group.add_argument(
        "--half",
        choices=precisions.HALVES,
        help="type of what INT8 and FP8 do not quantize (default: fp16)",
    )
    group = parser.add_argument_group("the calibration (INT8, FP8)")
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR|NPZ",
        help="images to find the ranges on (default: half of --data, the rest is checked on)",
    )
    group.add_argument(
        "--images",
        type=arguments.positive,
        metavar="N",
        help=f"calibration images (default: up to {DEFAULT_CALIBRATION})",
    )
    group.add_argument(
        "--table",
        type=Path,
        action="append",
        metavar="JSON",
        help="calibration table to start from; several are merged",
    )
    group.add_argument(
        "--observer",
        type=_observers,
        metavar="KIND=RULE,…",
        help=f"rule of a kind of tensor ({', '.join(SITES)}): {', '.join(OBSERVERS)}",
    )
    group.add_argument(
        "--equalise",
        action=argparse.BooleanOptionalAction,
        help="move outlier channels and means between layers first, which is exact",
    )
    group = parser.add_argument_group(
        "limits on accuracy (INT8, FP8; exit 8 where they cannot be met)"
    )
    group.add_argument(
        "--max-drop",
        type=arguments.amount,
        metavar="PP",
        help="percentage points of accuracy to lose at most",
    )
    group.add_argument(
        "--min-sqnr",
        type=_number,
        metavar="DB",
        help="smallest signal to noise (SQNR) of the logits, in decibels",
    )
    group.add_argument(
        "--min-agreement",
        type=_share,
        metavar="%",
        help="smallest share of images with the same class, in percent",
    )
    parser.set_defaults(**DEFAULTS)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add `--precision` to a verb that exports first, and all that it takes."""
    parser.add_argument(
        "--precision",
        choices=(*precisions.PRECISIONS, requests.BEST),
        default=precisions.FP32,
        help="precision of the graph (default: fp32); `best` is the fastest that meets the limits",
    )
    add_arguments(parser)


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Add how long `best` measures."""
    parser.add_argument(
        "--rounds",
        type=arguments.positive,
        default=40,
        help="rounds that `best` measures, at least (default: 40)",
    )


def _observers(text: str) -> dict[str, str]:
    found = {}
    for part in arguments.names(text):
        kind, _, rule = part.partition("=")
        if kind not in SITES or rule not in OBSERVERS:
            wrong, known = (kind, SITES) if kind not in SITES else (rule, OBSERVERS)
            raise argparse.ArgumentTypeError(
                f"{part!r} is not KIND=RULE of {', '.join(SITES)} and {', '.join(OBSERVERS)} "
                + did_you_mean(wrong, known, otherwise="")
            )
        found[kind] = rule
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0 to 100")
    return value / 100
