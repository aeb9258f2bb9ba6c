"""The command line of a tuning, under the names of the FPET authors' script.

Readers of `params.sh` look for these names. What decides the run has no default, so that the
stored command line always holds it.
"""

import argparse

from examples.training.run_files import RunSettings
from examples.training.tuning import Training


def add_tuning(parser: argparse.ArgumentParser, dataset: str) -> None:
    """Add the options of a tuning to a parser."""
    parser.add_argument("--dataset", choices=[dataset], required=True)
    parser.add_argument("--method", choices=["lora", "adaptformer"], required=True)
    parser.add_argument("--bit", type=int, choices=[1, 2, 4, 8, 32], required=True)
    parser.add_argument("--dim", type=int, required=True, help="LoRA's rank, AdaptFormer's width")
    parser.add_argument("--r_layer", type=int, required=True, help="0-based merge block")
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--val-every", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)


def settings_of(options: argparse.Namespace) -> RunSettings:
    """Return what the options attach to the backbone."""
    return RunSettings(
        method=options.method,
        bits=options.bit,
        width=options.dim,
        scale=options.scale,
        merge_block=options.r_layer,
    )


def training_of(options: argparse.Namespace, *, bfloat16: bool = True) -> Training:
    """Return how the options train."""
    return Training(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_lr=options.lr,
        val_every=options.val_every,
        seed=options.seed,
        bfloat16=bfloat16,
    )
