"""One measurement for `bench` and `deploy`: artefacts, the plain model, peers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.comparison import bench
from benchmarks.conditions.validity import FEWEST_ROUNDS
from benchmarks.energy.course import PHASE, Plan
from benchmarks.energy.meter import EnergyMeter, require_any_sensor
from benchmarks.gemm_peak import measure_gemm_peak
from benchmarks.latency import Progress, Schedule
from benchmarks.merge_verdict import merge_verdicts
from benchmarks.peers import PeerSource
from benchmarks.predicted import with_predictions
from benchmarks.report.energy import energy_sentences
from benchmarks.scenarios.asked import Scenario, parse_scenarios
from engines import registry
from engines.engine import load_target
from engines.errors import InputError, UnknownNameError, UsageError
from engines.machine.device_lock import holding_device
from engines.machine.processor import usable_cores
from engines.manifest import Manifest, manifest_path, read_manifest
from engines.near_names import did_you_mean, near_names
from fpet_export.reporter import Reporter
from fpet_export.requests import Duration, Elsewhere, MachineSetting, Measured, Measuring
from fpet_export.steps import machine_setting, plain_vit

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11

    from benchmarks.conditions.validity import Finding
    from benchmarks.measurement import Measurement
    from engines.contract import OpenOptions

ATTEMPTS = 3
"""How often noise may spoil a measurement before it is given up."""
_PHASES = {"warm up": "warming up", "measure": "measuring", "soak": "soaking, in seconds",
           PHASE: "measuring energy"}  # fmt: skip
ALL_PEERS = ("ort_plain", "openvino_plain", "torch_eager", "torch_compile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and with what a measurement is taken; see `benchmarks.Schedule`.

    Attributes:
        threads: CPU threads; None takes the physical cores.
        rounds: At least.
        seconds: At least.
        seed: Seed of the order and the bootstrap.
        peak: Whether this CPU's GEMM peak is measured, too.
        energy: Whether the energy of an image is, too.
        scenarios: What each contender is measured under alone.
        opening: How artefacts are opened; `threads` stands above.
        setting: What a board is set to meanwhile.
    """

    threads: int | None = None
    rounds: int = 40
    seconds: float = 3.0
    seed: int = 0
    peak: bool = False
    energy: bool = False
    scenarios: tuple[Scenario, ...] = ()
    opening: OpenOptions | None = None
    setting: MachineSetting = dataclasses.field(default_factory=MachineSetting)

    @classmethod
    def of(cls, request: Measured) -> Self:
        """Return what a request says."""
        return cls(
            threads=request.threads,
            rounds=request.rounds,
            seconds=request.seconds,
            seed=request.seed,
            peak=request.peak,
            energy=request.energy,
            scenarios=parse_scenarios(request.scenario),
            opening=request.open_options(),
            setting=request,
        )

    def schedule(self) -> Schedule:
        """Return how long to measure."""
        return Schedule(
            min_rounds=self.rounds,
            min_s=self.seconds,
            max_rounds=max(1000, self.rounds),
            seed=self.seed,
        )

    def energy_meter(self) -> EnergyMeter | None:
        """Return how energy is measured, where it is asked for."""
        plan = Plan()
        plan = dataclasses.replace(plan, seconds=max(plan.seconds, self.seconds))
        return EnergyMeter(plan=plan) if self.energy else None

    def gemm_peak(self) -> float | None:
        """Measure this CPU's GEMM peak in multiply-adds a second, where it is asked for."""
        if not self.peak:
            return None

        return measure_gemm_peak(threads=self.threads or usable_cores()).macs_per_s


def measure(
    artefacts: Sequence[Path],
    *,
    against: str | None,
    peers: Sequence[str],
    settings: Settings,
    folder: Path,
    command: Sequence[str],
    reporter: Reporter,
    plain: Path | None = None,
) -> Measurement:
    """Measure artefacts against a baseline and peers, in the same rounds.

    Args:
        artefacts: Graphs or engines.
        against: "plain", one of the artefacts or another, or None for the first.
        peers: Names of `benchmarks/peers`, or "all".
        settings: How long.
        folder: For the plain model; it must outlive the call.
        command: The command line to record.
        reporter: Shows the progress.
        plain: The plain model's graph; None writes it, which needs torch.

    Raises:
        UsageError: "plain" or peers are asked for an artefact whose architecture is unknown.
    """
    (found,) = measure_batches(
        artefacts,
        batches=[smallest_batch([_manifest_of(path) for path in artefacts])],
        against=against,
        peers=peers,
        settings=settings,
        folder=folder,
        command=command,
        reporter=reporter,
        plain=plain,
    )
    return found


def measure_batches(
    artefacts: Sequence[Path],
    *,
    batches: Sequence[int | None],
    against: str | None,
    peers: Sequence[str],
    settings: Settings,
    folder: Path,
    command: Sequence[str],
    reporter: Reporter,
    plain: Path | None = None,
) -> list[Measurement]:
    """Do the same for each of several batch sizes; None is the one that the artefacts fix."""
    peers = ALL_PEERS if tuple(peers) == ("all",) else tuple(peers)
    source: PeerSource | None = None
    baseline: Path | str | None = against
    if peers or (against == plain_vit.PLAIN and plain is None):
        rival = plain_vit.require_described(artefacts[0])
        with reporter.working("writing the plain ViT"):
            source, written = plain_vit.write(rival, load_target(rival.target), folder)
        plain = plain or written
    if against == plain_vit.PLAIN:
        assert plain is not None
        baseline = plain_vit.built_like(artefacts[0], plain, folder, reporter)
        reporter.step("plain", plain_vit.describe(plain))
    with (
        one_at_a_time(reporter) as lock,
        machine_setting.held(settings.setting, reporter, lock=lock) as watcher,
    ):
        peak = settings.gemm_peak()
        found = []
        for batch in batches:
            size = f" batch {batch}" if len(batches) > 1 else ""
            with reporter.phases(f"measuring{size}") as tell:
                measurement = bench(
                    list(artefacts),
                    against=baseline,
                    against_plain=against == plain_vit.PLAIN,
                    batch=batch,
                    peers=peers,
                    peer_source=source,
                    threads=settings.threads,
                    options=settings.opening,
                    schedule=settings.schedule(),
                    gemm_peak_macs_per_s=peak,
                    scenarios=settings.scenarios,
                    energy=settings.energy_meter(),
                    strict=False,
                    attempts=ATTEMPTS,
                    again=saying(reporter),
                    command=command,
                    watcher=watcher,
                    progress=telling(tell, settings.rounds, size),
                )
            found.append(with_predictions(measurement))
    return found


def one_at_a_time(reporter: Reporter) -> AbstractContextManager[int | None]:
    """Wait until no other measurement runs on this machine, and keep others waiting."""
    text = "another measurement runs on this machine; this one waits until it has ended"
    return holding_device(lambda: reporter.step("bench", text, passed=None))


def refuse_unknown_baseline(
    against: str | None, artefacts: Sequence[Path], peers: Sequence[str]
) -> None:
    """Refuse a baseline that is not "plain", a contender's name, a peer or a file.

    Raises:
        UsageError: It is no file, but looks like "plain" or like one of the files.
        InputError: It is no file.
    """
    peers = ALL_PEERS if tuple(peers) == ("all",) else tuple(peers)
    known = (plain_vit.PLAIN, *peers, *(path.stem for path in artefacts))
    if against is None or against in known or Path(against).exists():
        return
    folders = {path.parent for path in (*artefacts, Path(against))}
    beside = [
        str(path)
        for folder in sorted(folders)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix in (".onnx", ".plan")
    ]
    by_name = {Path(name).name: name for name in beside}
    by_name |= {name: name for name in (plain_vit.PLAIN, *peers)}
    near = [by_name[name] for name in near_names(Path(against).name, by_name)]
    if near:
        raise UsageError(
            f"{against} is neither {plain_vit.PLAIN!r} nor a file",
            where="--against",
            fix=f"did you mean {' or '.join(near)}?",
        )
    raise InputError(
        "there is no such file",
        where=f"--against {against}",
        fix="name a graph or an engine, or say --against plain for the same network without "
        "merging",
    )


def refuse_few_rounds(request: Duration) -> None:
    """Refuse what `validity` would call invalid in the end.

    Raises:
        UsageError: There are too few rounds, and a marked measurement was not asked for.
    """
    if request.rounds < FEWEST_ROUNDS and not request.allow_noise:
        raise UsageError(
            f"{request.rounds} rounds are too few for a valid measurement, {FEWEST_ROUNDS} "
            f"are needed",
            where="--rounds",
            fix=f"--rounds {FEWEST_ROUNDS} or more; or add --allow-noise to get numbers that "
            f"are marked as not valid",
        )


def refuse_energy(request: Measuring) -> None:
    """Refuse energy before any work is done where this machine has no sensor at all.

    Raises:
        MachineError: It has none; what each source lacks is told.
    """
    is_here = not isinstance(request, Elsewhere) or request.remote is None
    if request.energy and is_here:
        require_any_sensor()


def check_peers(names: Sequence[str]) -> None:
    """Refuse unknown names before any work is done.

    Raises:
        UnknownNameError: There is no such peer.
    """
    from benchmarks import peers

    known = registry.available(peers)
    for name in names:
        if name not in (*known, "all"):
            raise UnknownNameError(
                f"{name!r} is not one of {', '.join(known)}",
                where="--peers",
                fix=did_you_mean(name, known, otherwise="choose one of the names above"),
            )


def verdict(measurement: Measurement, *, ours_only: bool = False) -> str:
    """Return the verdicts as one line a contender; `ours_only` leaves the peers out.

    Of a measurement that is not valid there is none, only the reasons.
    """
    if not measurement.valid:
        return f"speed not known: {reasons(measurement.spoiled_by)}"
    lines = []
    for result in measurement.contenders:
        found = result.against
        if found is not None and (result.artefact is not None or not ours_only):
            lines.append(
                f"{result.name}: {found.verdict}, {found.ratio:.3f} of {found.baseline} "
                f"[{found.low:.3f}, {found.high:.3f}]"
            )
    lines += [*energy_sentences(measurement), *merging([measurement])]
    return "\n".join(lines) or f"{measurement.baseline} alone"


def merging(measurements: Sequence[Measurement]) -> list[str]:
    """Return a sentence for each merged contender beside the plain model: whether merging pays."""
    return [f"{one.sentence()}." for one in merge_verdicts(measurements)]


def smallest_batch(manifests: Sequence[Manifest | None]) -> int | None:
    """Return the smallest batch that all dynamic ones take; None where one fixes its batch."""
    ranges = [manifest.batch_range for manifest in manifests if manifest is not None]
    known = [found for found in ranges if found]
    return max(low for low, _ in known) if len(known) == len(manifests) else None


def _manifest_of(artefact: Path) -> Manifest | None:
    return read_manifest(artefact) if manifest_path(artefact).exists() else None


def reasons(findings: Sequence[Finding]) -> str:
    """Return what spoiled a measurement."""
    return "; ".join(found.what for found in findings if found.severity == "invalid")


def saying(reporter: Reporter) -> Any:
    """Tell a reporter why a measurement is taken again."""

    def again(findings: Sequence[Finding], attempt: int) -> None:
        said = f"not valid: {reasons(findings)}; measuring again ({attempt} of {ATTEMPTS})"
        reporter.step("bench", said, passed=None)

    return again


def telling(tell: Callable[[str, int, int], None], rounds: int, size: str = "") -> Progress:
    """Turn the phases of a measurement into those of a reporter, in words.

    Args:
        tell: Of `Reporter.phases`.
        rounds: Rounds that are measured at least.
        size: What is said of the batch.
    """
    open_phase, open_total = "", 0

    def report(phase: str, done: int, total: int) -> bool:
        nonlocal open_phase, open_total
        name = f"{_PHASES.get(phase, phase)}{size}"
        if phase == "measure":
            total = max(rounds, done + 1)  # how many more follow is known to nobody
        if open_phase not in ("", name):
            tell(open_phase, open_total, open_total)
        open_phase, open_total = name, total
        tell(name, done, total)
        return True

    return report


def refuse_peers(request: Measuring) -> None:
    """Refuse to leave out peers that were asked for.

    Raises:
        UsageError: There are some, and the work is done on another machine.
    """
    if isinstance(request, Elsewhere) and request.remote is not None and request.peers:
        raise UsageError(
            "peers run on this machine only: their packages are not on the other one",
            where="--peers",
            fix="leave --peers out there, and measure them here with `bench` without --remote",
        )
