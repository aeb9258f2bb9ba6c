"""`fpet-export deepstream ENGINE -o DIR`: what DeepStream's Gst-nvinfer needs to run a plan."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.deepstream import write
from fpet_export.reporter import Reporter
from fpet_export.requests import made

DESCRIPTION = """\
Write DIR/config_infer.txt, model.plan with its manifest, labels.txt, the source of a parser that
names the class of the logits, and README.md with the commands and with what is not equal to
`predict`. ENGINE is a plan of TensorRT 10; nvinfer builds nothing itself.

Where the preprocessing crops, give the size of the video: nvinfer does not crop, and the pipeline
in README.md does it before. docs/deepstream.md says which DeepStream has which TensorRT.

  fpet-export deepstream out/model.fp16.tensorrt.plan -o ds --frame 1920x1080
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="a plan of TensorRT")
    arguments.add_output(parser, what="the folder to write", required=True)
    parser.add_argument(
        "--frame", type=_frame, metavar="WIDTHxHEIGHT", help="size of the video, for the crop"
    )
    parser.add_argument(
        "--uncropped",
        action="store_true",
        help="let the network see whole frames or objects although the preprocessing crops",
    )
    parser.add_argument(
        "--objects-of",
        type=arguments.positive,
        metavar="ID",
        help="classify the objects of the detector with this gie-unique-id (default: frames)",
    )
    parser.add_argument(
        "--tensors",
        action="store_true",
        help="attach the outputs as they are, for an application that reads them",
    )
    parser.add_argument("--gpu", type=_gpu, default=0, metavar="N", help="its number (default: 0)")
    arguments.add_failed(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check the plan, then write the folder."""
    found = write.write(made(write.DeepstreamRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=str(found.folder))


def _frame(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 1920x1080")
    return int(found[1]), int(found[2])


def _gpu(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a GPU, from 0")
    return int(text)
