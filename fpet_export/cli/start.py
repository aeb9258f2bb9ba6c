"""Where a process begins: signals are heeded before anything is imported that takes time.

Importing the command line takes a second on a small board. Ctrl-C or SIGTERM in that time would
end Python with a traceback, or with no word and a code of its own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fpet_export.cli.stop_signals import INTERRUPTED, StopSignals, told

_NEW_OBJECTS = 50_000
"""After how many Python looks for those that hold each other. It looks after 700 unless told, a
thousand times while PyTorch is imported and traces."""

_TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"
Command = Callable[[], int]


def run() -> NoReturn:
    """Entry point of the installed command."""
    run_process(_command_line)


def _command_line() -> Command:
    from fpet_export.cli.dispatch import main  # takes its time: signals are heeded by now

    _keep_torch_out_of_the_temporary_folder()
    return main


def _keep_torch_out_of_the_temporary_folder() -> None:
    """Give PyTorch's compiler a cache of this process's own, and remove it at the end.

    Parts of PyTorch make that folder when they are imported, whether they use it or not, and leave
    it behind. A place that the user's environment names stays.
    """
    if _TORCH_CACHE in os.environ:
        return
    folder = Path(tempfile.gettempdir()) / f"fpet-export-torch-{os.getpid()}"
    os.environ[_TORCH_CACHE] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def run_process(load: Callable[[], Command]) -> NoReturn:
    """Run a command as this process: with safe streams, and signals that let it clean up.

    Args:
        load: Imports the command and returns it; the command returns the exit code, or raises
            SystemExit as `--help` does.
    """
    stop = StopSignals()
    stop.listen()
    gc.set_threshold(_NEW_OBJECTS)
    command = None
    try:
        command = load()
        code = _ended(command)
    except BaseException as error:
        # Whatever a library makes of the exception that a signal raised: it is what ended us.
        if stop.received is not None:
            code = stop.received.exit_code
            if command is None:
                _say_stopped(stop.received)
            elif not isinstance(error, KeyboardInterrupt):
                from fpet_export.cli import streams  # as below

                streams.tell(f"error: stopped by {stop.received.name}")
        elif isinstance(error, KeyboardInterrupt) or (stop.interrupted and command is None):
            code = INTERRUPTED
            if command is None:
                _say_stopped(KeyboardInterrupt())
        else:
            raise
    # Python looks through all objects once more as it ends, a second of work where PyTorch is among
    # them; whatever it would find goes with the process.
    gc.freeze()
    sys.exit(code if stop.received is None else stop.received.exit_code)


def _say_stopped(error: KeyboardInterrupt) -> None:
    """Say that the command was stopped before it began."""
    name, code, how = told(error)
    what = f"{how}; nothing was begun"
    try:
        if "--json" in sys.argv[1:]:
            document = {"class": name, "exit_code": code, "what": what, "where": ""}
            error_ = {**document, "fix": "run the command again"}
            sys.stdout.write(json.dumps({"error": error_}, indent=1) + "\n")
            sys.stdout.flush()
        else:
            sys.stderr.write(f"error: {what}\n")
    except (OSError, ValueError, AttributeError):  # nobody hears it
        return


def _ended(command: Command) -> int:
    """Return the exit code of a command once stdout has taken everything."""
    from fpet_export.cli import (
        streams,
    )  # not before the command has looked whose `engines` it finds

    streams.prepare()
    try:
        code = command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    try:
        streams.flush()
    except streams.ReaderGoneError:
        return code or streams.NO_READER
    except streams.StreamError as error:
        streams.tell(f"error: {error}")
        return code or error.exit_code
    return code
