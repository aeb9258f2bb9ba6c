"""Make the example: `python -m examples.digits.train STAGE`, from the root of the repository.

Stages, in order: `split`, `pretrain`, `compose`, `tune` (once a method), `report`. Everything is
seeded; the same machine, thread count and library versions give the same files.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits

from examples.digits.backbone import pretrain
from examples.digits.compose import compose_files
from examples.digits.data import SPLIT_FILE, load_part, make_split
from examples.digits.report import report
from examples.digits.tuning import DATASET, tune
from examples.training.command_line import add_tuning, settings_of, training_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.digits.train", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of torch; the results depend on it")
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("split", help="write split.json")
    stage = stages.add_parser("pretrain", help="train the backbone on white digits")
    stage.add_argument("--batch-size", type=int, default=48)
    stage.add_argument("--first-phase", type=int, default=0, help="continue an interrupted run")
    stage.add_argument("--seed", type=int, default=0)
    stages.add_parser("compose", help="write test.npz, calibration.npz and images/")
    stage = stages.add_parser("tune", help="tune one method on the shifted task")
    add_tuning(stage, DATASET)
    stages.add_parser("report", help="measure what the files hold")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run one stage.

    Args:
        arguments: The command line without the program.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.stage == "split":
        SPLIT_FILE.write_text(json.dumps(make_split(load_digits().target)) + "\n")
    elif options.stage == "pretrain":
        pretrain(
            load_part("train"),
            load_part("val"),
            batch_size=options.batch_size,
            seed=options.seed,
            first_phase=options.first_phase,
        )
    elif options.stage == "compose":
        compose_files()
    elif options.stage == "tune":
        tune(
            settings_of(options),
            load_part("train"),
            load_part("val"),
            training_of(options),
            command=["python", "-m", "examples.digits.train", *arguments],
        )
    else:
        report()


if __name__ == "__main__":
    main(sys.argv[1:])
