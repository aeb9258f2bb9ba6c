"""What another machine does with artefacts: build, check, measure, each said once for all verbs."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measurement_file import read_measurement
from engines import storage
from engines.errors import EngineError, FpetError, MachineError, ParityError
from engines.fusion.report import fusion_path
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.parity.rows import row_from_json
from fpet_export.board.agent_call import call_agent
from fpet_export.board.packing import Item, Packed
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Measured, Measuring
from fpet_export.steps import built_engine as engine_steps
from fpet_export.steps import plain_vit

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.parity.rows import StageParity
    from fpet_export.board.ssh import Remote

ENERGY = "--energy"
"""The option of `bench`, here and there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What came out of building, checking and measuring artefacts on another machine.

    Attributes:
        rows: How each engine compares with its graph, by the engine's name; None where nothing
            says what the graph would answer. Engines that were refused there are left out.
        measurement: All of them, and the plain model where it was asked for, in the same rounds.
    """

    rows: Mapping[str, StageParity | None]
    measurement: Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteSession:
    """A bundle that lies unpacked on another machine.

    Attributes:
        remote: Where it lies.
        items: What is in it.
        packed: Its list.
        reporter: Hears of each step.
        allowed: Options by which the agent takes what failed its check, if that is wanted.
    """

    remote: Remote
    items: tuple[Item, ...]
    packed: Packed
    reporter: Reporter
    allowed: tuple[str, ...] = ()

    def prove(
        self, item: Item, *, engine: str | None = None, more: Sequence[str] = ()
    ) -> Mapping[str, Any] | None:
        """Build a graph there, and check the engine against what the graph says here.

        Args:
            item: One of the bundle's artefacts.
            engine: Name of the engine there; None for its usual one.
            more: Options of `build`.

        Returns:
            The parity table as JSON; None where the bundle has nothing to compare with.

        Raises:
            EngineError: The engine cannot be built or opened there.
            ParityError: Its answers are not the graph's.
        """
        name = engine or item.engine
        if item.is_graph:
            argv = ["build", item.path.name, "--target", item.target.name, "-o", name, "--force"]
            call_agent(self.remote, [*argv, *self.allowed, *more], self.reporter)
        check = self.packed.checks.get(item.path.name)
        if check is None:
            return None
        argv = ["check", name, "--expect", check, *self.allowed]
        found = call_agent(self.remote, argv, self.reporter)
        table: Mapping[str, Any] = found["parity"]
        return table

    def require_sensor(self) -> None:
        """Refuse energy before anything is built where the other machine has no sensor.

        Raises:
            MachineError: Its doctor knows of none.
        """
        try:
            found = call_agent(self.remote, ["doctor"], SILENT).get("energy", {})
        except FpetError:  # what it lacks is told by the steps that need it
            return
        if found.get("gpu") is None and found.get("cpu") is None:
            told = "; ".join(f"{name}: {why}" for name, why in found.get("missing", {}).items())
            raise MachineError(
                f"on {self.remote.host}: no sensor tells the energy: {told}",
                where=f"{self.remote.host}: {ENERGY}",
                fix=f"leave {ENERGY} out",
            )

    def trial(
        self,
        argv: Sequence[str],
        *,
        against: Item | str | None = None,
        refused: Callable[[Item, FpetError], None] | None = None,
    ) -> Trial:
        """Build and check every artefact there, then measure all engines in the same rounds.

        Whether the measurement counts is judged here, so a noisy one comes back too.

        Args:
            argv: Options of `bench`.
            against: One of the artefacts, "plain", or None for the first.
            refused: Called with an artefact whose engine cannot be built or drifts there, which
                then does not take part; None raises.

        Raises:
            MachineError: Energy is asked for, and there is no sensor.
        """
        if ENERGY in argv:
            self.require_sensor()
        rows: dict[str, StageParity | None] = {}
        for item in self.items:
            try:
                rows[item.engine] = row_of(self.prove(item))
            except (EngineError, ParityError) as error:
                if refused is None:
                    raise
                refused(item, error)
        if not rows:
            raise EngineError(
                "no engine is left to measure",
                where=self.remote.host,
                fix="read above why each one was dropped, and export for a target that suits it",
            )
        if against == plain_vit.PLAIN:
            assert self.packed.plain is not None
            argv = [*argv, "--against", plain_vit.PLAIN, "--plain", self.packed.plain]
        elif isinstance(against, Item):
            argv = [*argv, "--against", against.engine]
        return Trial(rows=rows, measurement=self.measure(list(rows), argv))

    def fetch(self, out: Path) -> Manifest:
        """Fetch an engine with its side-car and its fusion report, and check it.

        Args:
            out: Where it goes here; it has the same name there.

        Raises:
            TrustError: The bytes are not those that were built.
        """
        with storage.atomic_path(out) as engine:
            for path in (engine, manifest_path(engine)):
                self.remote.download(path.name, path)
            manifest = read_manifest(engine)
            report = fusion_path(engine)
            listed = self.remote.shell(f"ls {shlex.quote(report.name)} 2>/dev/null || true")
            if out.suffix == ".plan" and listed:
                self.remote.download(report.name, report)
        self.reporter.step("fetch", engine_steps.describe(out, manifest))
        return manifest

    def measure(self, engines: Sequence[str], argv: Sequence[str]) -> Measurement:
        """Measure engines there in the same rounds, and fetch the measurement."""
        file = "bench.json"
        given = ["bench", *engines, "-o", file, "--force", "--allow-noise", *self.allowed, *argv]
        call_agent(self.remote, given, self.reporter)
        with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
            self.remote.download(file, Path(folder) / file)
            return read_measurement(Path(folder) / file)


def row_of(table: Mapping[str, Any] | None) -> StageParity | None:
    """Return the one row of what `RemoteSession.prove` found."""
    return None if table is None else row_from_json(table["rows"][0])


def bench_argv(request: Measuring) -> list[str]:
    """Return the request of `bench` that `bench` and `deploy` share."""
    threads = [] if request.threads is None else ["--threads", str(request.threads)]
    energy = [ENERGY] if request.energy else []
    argv = ["--rounds", str(request.rounds), "--seconds", str(request.seconds), *threads]
    return [*argv, *energy, *request.setting_argv()]


def measuring_argv(request: Measured) -> list[str]:
    """Return every option of `bench` that says how to measure, for the agent's."""
    argv = [*bench_argv(request), "--seed", str(request.seed)]
    argv += ["--peak"] if request.peak else []
    argv += ["--scenario", ",".join(request.scenario)] if request.scenario else []
    return [*argv, *request.running_argv()]
