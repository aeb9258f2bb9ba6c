"""Parity is a table, not a number: a row a stage, judged by its gates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from engines.errors import ParityError
from engines.plurals import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageParity:
    """One row of the table.

    Attributes:
        stage: "checkpoint", "folded", "frozen", "onnx", "typed" or an engine's name.
        images: Images compared.
        judged: Of them, those whose logits were judged: where two scores of the match nearly tie,
            another answer is right, too. None where it was not recorded.
        largest_logit_difference: In absolute value, over images without an explained flip.
        relative: The same over the largest |reference logit|.
        sqnr_db: Power of the reference logits over the power of their difference; infinite when
            equal.
        agreement: Share of images with the same class; None where the outputs name no class.
        cosine: Smallest cosine between an output vector (of an image, or of one of its patches) and
            the reference's, where the outputs are features or tokens; else None.
        same_partner: Share of A tokens sent to the same B token; None where unknown.
        unexplained_flips: Matches that differ although the reference was sure; None as above.
        explained_flips: Matches that differ within the margin.
        tokens_kept: Smallest sum of sizes over the images, or None.
        tokens_expected: Number of patches and prefix tokens.
        accuracy: Share of images whose label is predicted; None without labels.
        rounding: What rounding explains; see `Gates`. None where it was not measured.
        warnings: What does not fail the stage and should be known, in words.
        failures: Gates that were missed, in words; empty when the stage passes.
    """

    stage: str
    images: int
    largest_logit_difference: float
    relative: float
    sqnr_db: float
    agreement: float | None
    same_partner: float | None = None
    unexplained_flips: int | None = None
    explained_flips: int | None = None
    tokens_kept: int | None = None
    tokens_expected: int | None = None
    accuracy: float | None = None
    rounding: float | None = None
    judged: int | None = None
    cosine: float | None = None
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no gate was missed."""
        return not self.failures

    @property
    def unjudged(self) -> str:
        """How many of the images were judged, in words; "" where all were.

        A stage that shows its match says more than that: its flips are counted.
        """
        if self.judged in (None, self.images) or self.same_partner is not None:
            return ""
        return f"{self.judged} of {self.images} judged: the match of the others is not certain"

    @property
    def difference(self) -> str:
        """The largest difference of an output, in words."""
        of = "logit" if self.cosine is None else "output"
        return f"largest {of} difference {self.largest_logit_difference:.1e}"

    @property
    def same_images(self) -> int | None:
        """Images with the same class; None where the outputs name no class."""
        return None if self.agreement is None else round(self.agreement * self.images)

    @property
    def likeness(self) -> str:
        """How alike the answers are, in words."""
        if self.agreement is None:
            alike = f"same vectors up to a cosine of {self.cosine or 0.0:.6f}"
            return f"{alike} on {counted(self.images, 'image')}"
        return f"same class on {self.same_images} of {counted(self.images, 'image')}"

    @property
    def agreement_in_words(self) -> str:
        """The same as a share, such as "agreement 98.5%"."""
        if self.agreement is None:
            return f"smallest cosine {self.cosine or 0.0:.6f}"
        return f"agreement {self.agreement:.1%}"


def row_from_json(document: Mapping[str, Any]) -> StageParity:
    """Return a row of `ParityTable.to_json`, in which an infinite number is null.

    An infinite SQNR is that of equal logits where nothing differs, else that of logits that are not
    finite, which is minus infinity.

    Raises:
        TypeError: It is none.
    """
    numbers = ("largest_logit_difference", "relative", "sqnr_db")
    found = {name: document.get(name) for name in numbers}
    infinite = {name: math.inf for name, value in found.items() if value is None}
    if found["sqnr_db"] is None and found["largest_logit_difference"] != 0:
        infinite["sqnr_db"] = -math.inf
    words = {name: tuple(document.get(name, ())) for name in ("warnings", "failures")}
    return StageParity(**{**document, **infinite, **words})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityTable:
    """All stages against one reference.

    Attributes:
        images: What was compared on, in words ("8 synthetic images, seed 0").
        reference: What the rows are compared with, in words.
        rows: One a stage, in the order of the pipeline.
        tied_images: Images on which the published rule in float32 would drop a token that an
            argmax keeps; None without merge.
        labels: How it was found which classes the labels of the images mean, such as "by name";
            None without labels.
        left_out: Files of the set that are not among the images, and why, in words.
    """

    images: str
    reference: str
    rows: tuple[StageParity, ...]
    tied_images: int | None = None
    labels: str | None = None
    left_out: tuple[str, ...] = ()

    def first_failure(self) -> StageParity | None:
        """Return the first stage that missed a gate, or None."""
        return next((row for row in self.rows if not row.passed), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; an infinite number becomes null, see `row_from_json`."""
        document = dataclasses.asdict(self)
        for row in document["rows"]:
            for key, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[key] = None
        return document


def joined(tables: Sequence[ParityTable], *, reference: str) -> ParityTable:
    """Return the rows of tables, each on images of its own, as one table."""
    said: dict[str, dict[str, None]] = {
        "images": dict.fromkeys(table.images for table in tables),
        "labels": dict.fromkeys(table.labels for table in tables if table.labels is not None),
        "left_out": dict.fromkeys(words for table in tables for words in table.left_out),
    }
    return ParityTable(
        images=", ".join(said["images"]),
        labels=", ".join(said["labels"]) or None,
        left_out=tuple(said["left_out"]),
        reference=reference,
        rows=tuple(row for table in tables for row in table.rows),
    )


def failed_row(stage: str, images: int, why: str) -> StageParity:
    """Return the row of a stage that could not even be compared: a check that failed, too."""
    return StageParity(
        stage=stage,
        images=images,
        largest_logit_difference=math.inf,
        relative=math.inf,
        sqnr_db=-math.inf,
        agreement=0.0,
        failures=(why,),
    )


def judge(table: ParityTable, *, fix: str) -> None:
    """Raise a ParityError that names the first stage which drifted, if one did."""
    row = table.first_failure()
    if row is not None:
        raise ParityError(
            f"{row.stage} drifts from the reference: {'; '.join(row.failures)}",
            where=f"stage {row.stage}, on {table.images}",
            fix=fix,
        )
