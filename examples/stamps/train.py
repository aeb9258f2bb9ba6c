"""Make the example: `python -m examples.stamps.train STAGE`, from the root of the repository.

`python -m benchmarks.experiments.pretrained` comes first. Stages: `tune` (once a method), `report`.
Everything is seeded; the same machine, thread count and library versions give the same files.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from examples.stamps.report import report
from examples.stamps.tuning import DATASET, tune
from examples.training.command_line import add_tuning, settings_of, training_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.stamps.train", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of torch; the results depend on it")
    stages = parser.add_subparsers(dest="stage", required=True)
    add_tuning(stages.add_parser("tune", help="tune one method on the pictures"), DATASET)
    stages.add_parser("report", help="measure what the files hold")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run one stage.

    Args:
        arguments: The command line without the program.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.stage == "report":
        report()
        return
    tune(
        settings_of(options),
        training_of(options, bfloat16=False),
        ["python", "-m", "examples.stamps.train", *arguments],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
