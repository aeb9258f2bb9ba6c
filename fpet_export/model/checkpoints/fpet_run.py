"""A run of the FPET authors' code: `NAME.pth`, `NAME.bin`, a YAML and `NAME/params.sh`.

`NAME.pth` holds the head, and the adapters of a 32-bit run. `NAME.bin` holds every low-bit layer
without names. The block after which tokens merge is written down in `params.sh` alone; for runs
below 32 bit it can also be found from the bytes. Everything here is strict: each expected tensor
exactly once, no byte left over, and two sources that say different things are refused.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from fpet_export.model.backbones import Backbone
from fpet_export.model.checkpoints import Checkpoint, Hints, _agreement, _records
from fpet_export.model.checkpoints._run_files import (
    RunFiles,
    read_files,
    refuse_leftovers,
)
from fpet_export.model.checkpoints._run_files import recognises as recognises
from fpet_export.model.checkpoints._run_settings import FULL_BITS, settings_of
from fpet_export.model.checkpoints._run_weights import (
    decode_stream,
    dense_factors,
    head_of,
    stream_layers,
)
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import at_block
from fpet_export.model.vit_spec import VitSpec

_CODE = "the authors' FPET code (timm 0.4.12)"

_DECODED_BY = "the authors' code, whose loaders only convert an image to RGB"


def read(text: str, hints: Hints) -> FpetRun:
    """Read the run's files; see `fpet_export.model.checkpoints.Format`."""
    return FpetRun(content=read_files(text, hints))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FpetRun:
    """What the files of one run say; see `fpet_export.model.checkpoints.Run`."""

    content: RunFiles

    @property
    def name(self) -> str:
        """The run's name."""
        return self.content.name

    @property
    def backbone(self) -> None:
        """These runs never bring their backbone."""
        return

    @property
    def architecture(self) -> Fact[str] | None:
        """The YAML's backbone field, as timm names the architecture."""
        name = self.content.config.get("backbone")
        if not isinstance(name, str) or self.content.config_path is None:
            return None
        return Fact(re.sub(r"_in21k$", "", name), self.content.config_path.name)

    @property
    def pool(self) -> Fact[str]:
        """The class token: timm 0.4.12, which this code pins, has no other way."""
        return Fact("class", _CODE)

    @property
    def normalisation(self) -> Fact[str]:
        """None: the authors' loaders divide by 255 and no more."""
        return Fact("none", f"{_CODE}, which only divides pixels by 255")

    @property
    def weights(self) -> frozenset[str]:
        """What `--weights` may call the set of weights that was read."""
        return self.content.found.names

    def head_width(self, depth: int, width: int) -> tuple[int, str] | None:
        """Return the head width that the refinement's length reveals, if there is one."""
        if self.content.stream is None:
            return None
        settings = settings_of(self.content)
        layers = stream_layers(settings, width)
        layout = _records.StreamLayout(
            layers=layers, depth=depth, bits=settings["bit"].value, head_width=0
        )
        found = _records.head_width_of(len(self.content.stream) - layout.adapter_bytes())
        return None if found is None or width % found else (found, self.content.stream_path.name)

    def decode(self, spec: VitSpec) -> Checkpoint:
        """Decode the run for its backbone; see `fpet_export.model.checkpoints.Run`."""
        settings = settings_of(self.content)
        facts: dict[str, Fact[Any]] = settings | self.content.found.facts
        facts["decode"] = Fact("plain", _DECODED_BY)
        head = head_of(self.content, spec, facts)
        factors, refinement = decode_stream(self.content, spec, settings, facts)
        if settings["bit"].value == FULL_BITS:
            factors = dense_factors(self.content, spec, settings)
        else:
            refuse_leftovers(self.content, [])
        return Checkpoint(
            name=self.name,
            method=settings["method"].value,
            bit=settings["bit"].value,
            dim=settings["dim"].value,
            scale=float(settings["scale"].value),
            merge=at_block(facts["merge block"].value),
            factors=tuple(factors),
            refinement=refinement,
            head=head,
            quality="trained",
            files=self.content.files,
            facts=facts,
        )

    def check(self, backbone: Backbone) -> None:
        """Refuse another network than the YAML names, or other weights than the run's own file."""
        _agreement.same_network(self.architecture, backbone, where=str(self.content.config_path))
        _agreement.same_pool(self.pool, backbone, where=str(self.content.path))
        _agreement.same_weights(self.content.whole, backbone, path=self.content.path)
