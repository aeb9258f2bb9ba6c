"""Our typed graphs beside those of other tools: the same network, images and measure for all.

`make crosscheck` makes an environment of its own for NVIDIA ModelOpt, which never meets this
project's packages, and runs `python -m benchmarks.experiments.crosscheck run`. `python -m
benchmarks.experiments.crosscheck table` writes the committed result as Markdown.
"""
