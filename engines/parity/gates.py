"""How far an artefact may be from its reference."""

from __future__ import annotations

import dataclasses
import math

from engines import precisions
from engines.parity.rows import StageParity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits that a stage must keep; None means "reported, not judged".

    Attributes:
        relative: Largest |logit difference| over the largest |reference logit|.
        margin: Match margin below which either choice is right.
        agreement: Smallest agreement, 0..1. Images whose two best reference logits are
            closer than twice the allowed difference do not count: either answer is right there.
        sqnr_db: Smallest signal to noise ratio of the logits; not judged where `rounding` is
            known.
        warn_db: Signal to noise ratio below which the row has a warning.
        rounding: What rounding explains in the median image, as a share of the logits' size; see
            `engines.parity.rounding`. Where it is known, it takes the place of `relative`.
    """

    relative: float | None = 1e-4
    margin: float = 1e-5
    agreement: float | None = 1.0
    sqnr_db: float | None = None
    warn_db: float | None = None
    rounding: float | None = None


NO_GATES = Gates(relative=None, agreement=None)
"""For a row that is shown and not judged; logits that are not finite fail all the same."""


TYPED_GATES = {
    precisions.FP16: Gates(relative=2e-2, sqnr_db=30.0, warn_db=40.0),
    precisions.BF16: Gates(relative=1e-1, sqnr_db=15.0, warn_db=25.0),
    precisions.INT8: Gates(relative=None, agreement=None),
    precisions.FP8: Gates(relative=None, agreement=None),
}
"""What a typed graph must keep of the float32 one.

Half precision rounds every activation to 2^-11 (float16) or 2^-8 (bfloat16) of itself; over twelve
blocks that grows to a few thousandths, or hundredths, of the largest logit. How far exactly depends
on the network and is measured (`Gates.rounding`); what stands here is for where nobody did.
Integers go further, and what they must keep is the user's promise (`--max-drop` and the like). The
match is held to the same rule in all of them: it must be the argmax of the keys as they were
rounded."""


CONTROL_FACTOR = 3.0
"""How many times an engine may differ from its graph by what the graph differs from itself."""


def gates_of(precision: str, *, rounding: float | None = None) -> Gates:
    """Return what an artefact of a precision must keep of the float32 or float64 reference.

    Args:
        precision: Precision of the artefact.
        rounding: What rounding explains of it, where that was measured; see `Gates`.
    """
    gates = TYPED_GATES.get(precision, Gates())
    if rounding is None or gates.warn_db is None:
        return gates
    return dataclasses.replace(gates, rounding=rounding)


def gates_by_control(
    control: StageParity, *, factor: float = CONTROL_FACTOR, least: Gates | None = None
) -> Gates:
    """Return the gates of an engine whose graph rounds to 8 bits.

    Rounding turns a difference in the last bit into one of a whole step, and layer after layer
    more values round the other way. The graph, run on images that are the least different, shows
    how far that goes: in a 12-block network with random weights to 36 dB, in a trained one with 41
    dB between INT8 and float32 to 60 dB. A correct engine goes as far (37 and 63 dB there), one
    whose weight scales are off by 5 % or whose zero points by one does not (24 and 17 dB with the
    random weights).

    Args:
        control: The graph on the other images, against itself.
        factor: The engines above reach 0.9 and 0.7.
        least: Gates that hold where the control moves nothing; by default those of float32.
    """
    least = least or Gates()
    allowed = least.relative or 0.0
    if not math.isfinite(control.relative) or factor * control.relative <= allowed:
        return least
    return dataclasses.replace(
        least,
        relative=factor * control.relative,
        sqnr_db=control.sqnr_db - 20 * math.log10(factor),
    )
