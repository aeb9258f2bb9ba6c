"""One measurement for `bench` and `deploy`: artefacts, the plain model, peers."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines import registry
from engines.errors import UnknownNameError, UsageError
from engines.manifest import Manifest, ModelFacts, manifest_path, read_manifest
from fpet_export.console import Console

if TYPE_CHECKING:
    from benchmarks import Measurement

PLAIN = "plain"
ALL_PEERS = ("ort_plain", "openvino_plain", "torch_eager", "torch_compile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and with what a measurement is taken; see `benchmarks.Schedule`."""

    threads: int | None = None
    rounds: int = 40
    seconds: float = 3.0
    seed: int = 0
    peak: bool = False


def measure(
    artefacts: Sequence[Path],
    *,
    against: str | None,
    peers: Sequence[str],
    settings: Settings,
    folder: Path,
    command: Sequence[str],
    console: Console,
) -> Measurement:
    """Measure artefacts against a baseline and peers, in the same rounds.

    Args:
        artefacts: Graphs or engines.
        against: "plain", one of the artefacts or another, or None for the first.
        peers: Names of `benchmarks/peers`, or "all".
        settings: How long.
        folder: For the plain model; it must outlive the call.
        command: The command line to record.
        console: Shows the progress.

    Raises:
        UsageError: "plain" or peers are asked for an artefact whose architecture is unknown.
    """
    from benchmarks import PeerSource, Schedule, bench

    peers = ALL_PEERS if tuple(peers) == ("all",) else tuple(peers)
    source: PeerSource | None = None
    baseline: Path | str | None = against
    contenders: list[Path | str] = list(artefacts)
    if against == PLAIN or peers:
        manifest = _described(artefacts[0])
        source, plain = plain_model(manifest, folder)
        if against == PLAIN:
            baseline = _plain_like(manifest, plain, folder)
            console.step("plain", f"{_architecture(manifest)} without merging, random weights")
    peak = _peak(settings.threads) if settings.peak else None
    schedule = Schedule(
        min_rounds=settings.rounds,
        min_s=settings.seconds,
        max_rounds=max(1000, settings.rounds),
        seed=settings.seed,
    )
    with console.progress("measuring", settings.rounds) as advance:
        return bench(
            contenders,
            against=baseline,
            batch=_smallest_batch(artefacts),
            peers=peers,
            peer_source=source,
            threads=settings.threads,
            schedule=schedule,
            gemm_peak_macs_per_s=peak,
            strict=False,
            command=command,
            progress=_advancing(advance),
        )


def check_peers(names: Sequence[str]) -> None:
    """Refuse unknown names before any work is done.

    Raises:
        UnknownNameError: There is no such peer.
    """
    from benchmarks import peers

    known = registry.available(peers)
    for name in names:
        if name not in (*known, "all"):
            near = difflib.get_close_matches(name, known, n=1)
            raise UnknownNameError(
                f"{name!r} is not one of {', '.join(known)}",
                where="--peers",
                fix=f"did you mean {near[0]!r}?" if near else "choose one of the names above",
            )


def plain_model(manifest: Manifest, folder: Path) -> tuple[Any, Path]:
    """Write the plain graph of the same architecture with random weights.

    Returns:
        The `PeerSource` for peers, and the graph.
    """
    from benchmarks import PeerSource
    from fpet_export import cost, plain
    from fpet_export.backbones import random_weights
    from fpet_export.vit import VitSpec, empty_vit

    facts = manifest.model
    assert facts is not None
    spec = _spec(facts)
    weights = random_weights.draw(spec, 0)

    def build() -> Any:
        model = empty_vit(VitSpec(**vars(spec)))
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)

    batch = _batch(manifest)
    path = plain.naive_export(build(), folder / "plain.onnx", batch=batch, quality="random")
    macs = sum(cost.macs(spec, cost.tokens_after_blocks(spec, None)))
    source = PeerSource(onnx=path, module=build, image=(3, *spec.image), macs=macs)
    return source, path


def verdict(measurement: Measurement, *, ours_only: bool = False) -> str:
    """Return the verdicts as one line a contender; `ours_only` leaves the peers out."""
    lines = []
    for result in measurement.contenders:
        found = result.against
        if found is not None and (result.artefact is not None or not ours_only):
            lines.append(
                f"{result.name}: {found.verdict}, {found.ratio:.3f} of {found.baseline} "
                f"[{found.low:.3f}, {found.high:.3f}]"
            )
    return "\n".join(lines) or f"{measurement.baseline} alone"


def _described(path: Path) -> Manifest:
    if not manifest_path(path).exists() or read_manifest(path).model is None:
        raise UsageError(
            "nothing says the architecture of this artefact, so its plain model cannot be built",
            where=str(path),
            fix="measure against a graph of yours: --against PLAIN.onnx",
        )
    return read_manifest(path)


def _architecture(manifest: Manifest) -> str:
    assert manifest.model is not None
    return manifest.model.architecture


def _spec(facts: ModelFacts) -> Any:
    """Return a spec of the same cost; prefix tokens beyond the class token become registers."""
    from fpet_export.vit import VitSpec

    prefix: list[Literal["cls", "dist", "reg"]] = ["cls"] if facts.prefix_tokens else []
    prefix += ["reg"] * (facts.prefix_tokens - 1)
    return VitSpec(
        image=(facts.grid[0] * facts.patch[0], facts.grid[1] * facts.patch[1]),
        patch=facts.patch,
        width=facts.width,
        depth=facts.depth,
        heads=facts.heads,
        hidden=facts.hidden,
        classes=facts.classes,
        prefix=tuple(prefix),
        pool="class" if prefix else "mean",
    )


def _batch(manifest: Manifest) -> int:
    first = manifest.inputs[0].shape[0]
    if isinstance(first, int):
        return first
    return manifest.batch_range[0] if manifest.batch_range else 1


def _smallest_batch(artefacts: Sequence[Path]) -> int | None:
    """Return the smallest batch that dynamic engines take; None where one fixes its batch."""
    manifests = [read_manifest(path) for path in artefacts if manifest_path(path).exists()]
    ranges = [manifest.batch_range for manifest in manifests if manifest.batch_range]
    whole = len(ranges) == len(artefacts)
    return max(low for low, _ in ranges) if whole else None


def _plain_like(manifest: Manifest, plain: Path, folder: Path) -> Path:
    """Build the plain graph for the artefact's target, when the artefact is a built engine."""
    if manifest.kind == "graph":
        return plain
    from engines import BuildOptions, build
    from engines.engine import load_target

    target = load_target(manifest.target)
    capabilities = None  # TensorRT builds for the GPU it runs on
    if target.module == "tensorrt_rtx" and manifest.runtime is not None:
        capabilities = manifest.runtime.compute_capabilities
    return build(
        plain,
        target=target,
        out=folder / f"plain.{target.file_name}{target.suffix}",
        options=BuildOptions(compute_capabilities=capabilities),
    )


def _peak(threads: int | None) -> float:
    from benchmarks.gemm_peak import measure_gemm_peak
    from engines.processor import usable_cores

    return measure_gemm_peak(threads=threads or usable_cores()).macs_per_s


def _advancing(advance: Any) -> Any:
    """Turn "so many rounds are done" into steps of a bar."""
    done = 0

    def report(phase: str, now: int, total: int) -> bool:
        nonlocal done
        advance(now - done)
        done = now
        return True

    return report
