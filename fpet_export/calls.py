"""The verbs as Python calls: a request is made of the keywords, and the workflow is called.

Each call takes the fields of its request as keywords, and a `reporter` that hears of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engines.registry import explained, import_or_explain
from fpet_export.deepstream.write import DeepstreamRequest, DeepstreamWritten
from fpet_export.deepstream.write import write as run_deepstream
from fpet_export.doctor.diagnose import Diagnosis, DoctorRequest
from fpet_export.doctor.diagnose import diagnose as run_diagnose
from fpet_export.reporter import Recorder, Reporter
from fpet_export.request_fields import path_from
from fpet_export.steps.given_kinds import require_kinds
from fpet_export.steps.given_paths import require_files, require_outputs
from fpet_export.sweep.sweep import SweepRequest, Swept
from fpet_export.sweep.sweep import sweep as run_sweep
from fpet_export.tasks.bench import bench as bench_tasks
from fpet_export.tasks.build import BuiltTasks
from fpet_export.tasks.build import build as build_tasks
from fpet_export.tasks.bundle import Bundled, BundleRequest
from fpet_export.tasks.bundle import bundle as run_bundle
from fpet_export.tasks.request import TasksOutcome
from fpet_export.tasks.write import TasksRequest
from fpet_export.tasks.write import write as run_tasks
from fpet_export.triton.write import ModelWritten, TasksWritten, TritonRequest
from fpet_export.triton.write import write as run_triton
from fpet_export.workflow.bench import Benched, BenchRequest
from fpet_export.workflow.bench import bench as run_bench
from fpet_export.workflow.build import BuildRequest, Built
from fpet_export.workflow.build import build as run_build
from fpet_export.workflow.check import Checked, CheckRequest
from fpet_export.workflow.check import check as run_check
from fpet_export.workflow.compare import CompareRequest, Comparison
from fpet_export.workflow.compare import compare as run_compare
from fpet_export.workflow.deploy import Deployment, DeployRequest
from fpet_export.workflow.deploy import deploy as run_deploy
from fpet_export.workflow.estimate import Estimated, EstimateRequest
from fpet_export.workflow.estimate import estimate as run_estimate
from fpet_export.workflow.export import Exported, ExportRequest
from fpet_export.workflow.export import export as run_export
from fpet_export.workflow.inspect import Inspection, InspectRequest
from fpet_export.workflow.inspect import inspect as run_inspect
from fpet_export.workflow.inspect_tasks import FolderInspection
from fpet_export.workflow.predict import Predictions, PredictRequest
from fpet_export.workflow.predict import predict as run_predict
from fpet_export.workflow.quantize import Quantized, QuantizeRequest
from fpet_export.workflow.quantize import quantize as run_quantize
from fpet_export.workflow.report import Reported, ReportRequest
from fpet_export.workflow.report import report as run_report
from fpet_export.workflow.show import KernelPicture, MergePicture, ShowRequest
from fpet_export.workflow.show import show as run_show
from fpet_export.workflow.signing import Signed, SignRequest, Verified, VerifyRequest
from fpet_export.workflow.signing import sign as run_sign
from fpet_export.workflow.signing import verify as run_verify
from fpet_export.workflow.targets import OneTarget, TargetList, TargetsRequest
from fpet_export.workflow.targets import targets as run_targets

if TYPE_CHECKING:
    from fpet_export.stages import Adapted

Request = TypeVar("Request")
Result = TypeVar("Result")


def bench(*artefacts: str | Path, reporter: Reporter | None = None, **settings: Any) -> Benched:
    """Measure graphs, engines or the tasks of a folder, paired and interleaved.

    Args:
        artefacts: Graphs or engines, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.bench.BenchRequest`, such as `against="plain"`.

    Raises:
        FpetError: See `fpet_export.workflow.bench.bench`.
    """
    request = BenchRequest(artefacts=tuple(map(path_from, artefacts)), **settings)
    has_tasks = any(path.is_dir() for path in request.artefacts)
    return _call("bench", bench_tasks if has_tasks else run_bench, request, reporter)


def build(
    graph: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Built | BuiltTasks:
    """Build an engine of a graph, or the engines of a folder of tasks, and compare.

    Args:
        graph: A graph, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.build.BuildRequest`, such as `target="rtx"`.

    Raises:
        FpetError: See `fpet_export.workflow.build.build`.
    """
    request = BuildRequest(onnx=path_from(graph), **settings)
    if request.onnx.is_dir():
        return _call("build", build_tasks, request, reporter)
    return _call("build", run_build, request, reporter)


def bundle(artefact: str | Path, *, reporter: Reporter | None = None, **settings: Any) -> Bundled:
    """Pack a graph, an engine or a folder of tasks for another machine.

    Args:
        artefact: A graph, an engine, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.tasks.bundle.BundleRequest`, such as `target=NAME`.

    Raises:
        FpetError: See `fpet_export.tasks.bundle.bundle`.
    """
    request = BundleRequest(artefact=path_from(artefact), **settings)
    return _call("bundle", run_bundle, request, reporter)


def check(engine: str | Path, *, reporter: Reporter | None = None, **settings: Any) -> Checked:
    """Compare an engine, or a folder of tasks, with what its graph said where it was bundled.

    Args:
        engine: An engine, a graph, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.check.CheckRequest`, such as `expect=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.check.check`.
    """
    request = CheckRequest(engine=path_from(engine), **settings)
    return _call("check", run_check, request, reporter)


def compare(
    *artefacts: str | Path, reporter: Reporter | None = None, **settings: Any
) -> Comparison:
    """Compare artefacts with the first one on the same images.

    Args:
        artefacts: The reference, a run or an artefact; then graphs, engines, folders of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.compare.CompareRequest`, such as `data=DIR`.

    Raises:
        FpetError: See `fpet_export.workflow.compare.compare`.
    """
    request = CompareRequest(artefacts=tuple(map(str, artefacts)), **settings)
    return _call("compare", run_compare, request, reporter)


def deploy(
    run: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Deployment:
    """Export a run, prove parity, build engines, measure them and write one HTML page.

    Args:
        run: A folder, DIR/NAME, NAME.pth or "random:NAME:SEED".
        out: The folder to write.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.deploy.DeployRequest`, such as `target="cpu,rtx"`.

    Raises:
        FpetError: See `fpet_export.workflow.deploy.deploy`.
    """
    request = DeployRequest(run=str(run), out=path_from(out), **settings)
    return _call("deploy", run_deploy, request, reporter)


def diagnose(*, reporter: Reporter | None = None, **settings: Any) -> Diagnosis:
    """Say what this machine can do and what is missing, as the verb `doctor` does.

    Args:
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.doctor.diagnose.DoctorRequest`, such as `bundle=DIR`.

    Raises:
        FpetError: See `fpet_export.doctor.diagnose.diagnose`.
    """
    return _call("doctor", run_diagnose, DoctorRequest(**settings), reporter)


def estimate(
    artefact: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Estimated:
    """Predict what a network would take on boards and GPUs that are not here.

    Args:
        artefact: A graph or an engine, whose manifest describes the network.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.estimate.EstimateRequest`, such as
            `target="jetson-orin-nano-8gb"`.

    Raises:
        FpetError: See `fpet_export.workflow.estimate.estimate`.
    """
    request = EstimateRequest(artefact=path_from(artefact), **settings)
    return _call("estimate", run_estimate, request, reporter)


def export(
    run: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Exported:
    """Turn a fine-tuned run into a checked ONNX graph.

    Args:
        run: A folder, DIR/NAME, NAME.pth or "random:NAME:SEED".
        out: The folder to write.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.export.ExportRequest`, such as `backbone=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.export.export`.
    """
    request = ExportRequest(run=str(run), out=path_from(out), **settings)
    return _call("export", run_export, request, reporter)


def export_tasks(
    *runs: str | Path, out: str | Path, reporter: Reporter | None = None, **settings: Any
) -> TasksOutcome:
    """Put many runs of one backbone into one folder that shares it, as the verb `tasks` does.

    Args:
        runs: Runs, each as RUN or NAME=RUN.
        out: The folder to write, or with `add=True` or `drop=NAMES` to change.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.tasks.write.TasksRequest`, such as `backbone=FILE`.

    Raises:
        FpetError: See `fpet_export.tasks.write.write`.
    """
    request = TasksRequest(runs=tuple(map(str, runs)), out=path_from(out), **settings)
    return _call("tasks", run_tasks, request, reporter)


def inspect(
    run: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Inspection | FolderInspection:
    """Say what a run is and how each fact was found, or what is in a folder of tasks.

    Args:
        run: A folder, DIR/NAME, NAME.pth, "random:NAME:SEED", or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.inspect.InspectRequest`, such as `backbone=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.inspect.inspect`.
    """
    request = InspectRequest(run=str(run), **settings)
    return _call("inspect", run_inspect, request, reporter)


def load(run: str | Path, **options: Any) -> Adapted:
    """Read a fine-tuned run; see `fpet_export.stages.load` for the options."""
    adapted: Adapted = import_or_explain("fpet_export.stages").load(run, **options)
    return adapted


def predict(
    artefact: str | Path, *images: str | Path, reporter: Reporter | None = None, **settings: Any
) -> Predictions:
    """Classify images with a graph, an engine, or a task of a folder.

    Args:
        artefact: A graph, an engine, or a folder of tasks.
        images: Image files, or folders of them.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.predict.PredictRequest`, such as `top=3`.

    Raises:
        FpetError: See `fpet_export.workflow.predict.predict`.
    """
    files = tuple(map(path_from, images))
    request = PredictRequest(artefact=path_from(artefact), images=files, **settings)
    return _call("predict", run_predict, request, reporter)


def quantize(
    graph: str | Path, precision: str, *, reporter: Reporter | None = None, **settings: Any
) -> Quantized:
    """Write a typed graph of an exported one, within limits on accuracy.

    Args:
        graph: An exported float32 graph.
        precision: fp16, bf16, int8, fp8 or "best".
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.quantize.QuantizeRequest`, such as
            `calibration=DIR`.

    Raises:
        FpetError: See `fpet_export.workflow.quantize.quantize`.
    """
    wanted: Any = precision  # the request says which there are
    request = QuantizeRequest(onnx=path_from(graph), precision=wanted, **settings)
    return _call("quantize", run_quantize, request, reporter)


def report(*results: str | Path, reporter: Reporter | None = None, **settings: Any) -> Reported:
    """Put measurements of several boards side by side.

    Args:
        results: Files that `bench` or `deploy` wrote, or folders of them.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.report.ReportRequest`, such as `html=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.report.report`.
    """
    request = ReportRequest(results=tuple(map(path_from, results)), **settings)
    return _call("report", run_report, request, reporter)


def show(
    artefact: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> MergePicture | KernelPicture:
    """Draw which patches of an image merged into which, or the kernels of a plan.

    Args:
        artefact: An exported graph, a plan, or a folder of tasks.
        out: PNG to write.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.show.ShowRequest`, such as `image=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.show.show`.
    """
    request = ShowRequest(artefact=path_from(artefact), out=path_from(out), **settings)
    return _call("show", run_show, request, reporter)


def sign(
    artefact: str | Path, key: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> Signed:
    """Sign a graph, an engine or a bundle with an SSH key.

    Args:
        artefact: A graph, an engine or a bundle.
        key: A private SSH key, or the .pub file of one that the SSH agent holds.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.signing.SignRequest`, such as `force=True`.

    Raises:
        FpetError: See `fpet_export.workflow.signing.sign`.
    """
    request = SignRequest(artefact=path_from(artefact), key=path_from(key), **settings)
    return _call("sign", run_sign, request, reporter)


def sweep_runs(
    *runs: str | Path, out: str | Path, reporter: Reporter | None = None, **settings: Any
) -> Swept:
    """Compute a grid of runs, merges, batches, precisions and targets, as the verb `sweep` does.

    Args:
        runs: Runs, each as RUN or NAME=RUN.
        out: The folder of the sweep; what it holds already is not computed again.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.sweep.request.SweepRequest`, such as
            `merges="none,fpet@6"`.

    Raises:
        FpetError: See `fpet_export.sweep.sweep.sweep`.
    """
    request = SweepRequest(runs=tuple(map(str, runs)), out=path_from(out), **settings)
    return _call("sweep", run_sweep, request, reporter)


def targets(name: str | None = None, *, reporter: Reporter | None = None) -> TargetList | OneTarget:
    """List the boards, GPUs and runtimes that engines are built for, or show one in full.

    Args:
        name: NAME or NAME@RELEASE; None lists all.
        reporter: Hears of the steps; None is silent.

    Raises:
        FpetError: See `fpet_export.workflow.targets.targets`.
    """
    return _call("targets", run_targets, TargetsRequest(target=name), reporter)


def verify(artefact: str | Path, *, reporter: Reporter | None = None, **settings: Any) -> Verified:
    """Check hashes and signature of an artefact, a bundle or a folder of tasks; open nothing.

    Args:
        artefact: A graph, an engine, a bundle, or a folder of tasks.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.workflow.signing.VerifyRequest`, such as `signers=FILE`.

    Raises:
        FpetError: See `fpet_export.workflow.signing.verify`.
    """
    request = VerifyRequest(artefact=path_from(artefact), **settings)
    return _call("verify", run_verify, request, reporter)


def write_deepstream(
    engine: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> DeepstreamWritten:
    """Write what DeepStream's Gst-nvinfer needs to run a plan, as the verb `deepstream` does.

    Args:
        engine: A plan of TensorRT.
        out: The folder to write.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.deepstream.write.DeepstreamRequest`, such as
            `frame=(1920, 1080)`.

    Raises:
        FpetError: See `fpet_export.deepstream.write.write`.
    """
    request = DeepstreamRequest(engine=path_from(engine), out=path_from(out), **settings)
    return _call("deepstream", run_deepstream, request, reporter)


def write_triton(
    artefact: str | Path, out: str | Path, *, reporter: Reporter | None = None, **settings: Any
) -> ModelWritten | TasksWritten:
    """Write a model repository for Triton Inference Server, as the verb `triton` does.

    Args:
        artefact: A graph, an engine, or a folder of tasks.
        out: The model repository.
        reporter: Hears of the steps; None is silent.
        settings: Fields of `fpet_export.triton.write.TritonRequest`, such as `instances=2`.

    Raises:
        FpetError: See `fpet_export.triton.write.write`.
    """
    request = TritonRequest(artefact=path_from(artefact), out=path_from(out), **settings)
    return _call("triton", run_triton, request, reporter)


def _call(
    verb: str,
    workflow: Callable[[Request, Reporter], Result],
    request: Request,
    reporter: Reporter | None,
) -> Result:
    """Do what a verb does, once the request's files are there and its outputs can be written.

    Raises:
        FpetError: They are not, as on the command line: before anything heavy is loaded. Or a
            package is not installed.
    """
    for require in (require_files, require_kinds, require_outputs):
        require(verb, vars(request))
    try:
        return workflow(request, Recorder() if reporter is None else reporter)
    except ModuleNotFoundError as error:
        raise explained(error) from error
