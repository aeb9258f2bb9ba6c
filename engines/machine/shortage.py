"""What the machine did not give, as an error of ours."""

from __future__ import annotations

import errno
import tempfile

from engines.errors import MachineError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE}


def shortage(error: BaseException) -> MachineError | None:
    """Return the error of a machine without memory, room or open files; None for another one."""
    if isinstance(error, MemoryError):
        return MachineError(
            "there is not enough memory", where="memory", fix="free some, or use less at once"
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = str(error.filename or tempfile.gettempdir())
        return MachineError(
            str(error.strerror),
            where=where,
            fix="free space there, or let TMPDIR name another folder",
        )
    return None
