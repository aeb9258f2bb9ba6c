"""How fast PyTorch runs a merged ViT-B/16: compiled, packaged, and with the bias in several ways.

`python -m benchmarks.experiments.gpu_torch [-o FILE] [--batches 1,8,64] [--device cuda]`

The rival is a plain ViT with fused attention under torch.compile, as one CUDA graph. Each batch is
prepared by a process of its own (compilers run side by side), then measured alone: one round runs
every contender once, in changing order, between CUDA's events. What fails is recorded with its
reason, and the rest goes on. `--device cpu --depth 2 --batches 1` tries all of it without a GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.experiments import subjects
from engines import registry, storage
from engines.precisions import FP16

torch: Any = registry.import_or_explain("torch")
F: Any = torch.nn.functional
kernels: Any = registry.import_or_explain("torch.nn.attention")
flexible: Any = registry.import_or_explain("torch.nn.attention.flex_attention")
nn: Any = torch.nn

WIDTH, HEADS, IMAGE, PATCH = 768, 12, 224, 16
_WARM = 3
_FOR_PACKAGES_S = 30.0
"""Seconds that are kept for packages, which matter more than another way of the bias."""


class Plain(nn.Module):  # type: ignore[misc]  # torch is Any here
    """A plain ViT as a careful user writes it: fused attention, no dropout, no branches."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        tokens = (IMAGE // PATCH) ** 2 + 1
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, tokens, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, 1000)

    def forward(self, images: Any) -> Any:
        """Classify (B, 3, 224, 224) pixels."""
        x = self.patch(images.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0]).float()


class PlainBlock(nn.Module):  # type: ignore[misc]
    """One block of `Plain`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        """Map (B, N, C) to (B, N, C)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(mixed.reshape(batch, tokens, WIDTH))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def frozen(merge_block: int | None, batch: int, depth: int) -> Any:
    """Return this toolkit's frozen module with fused attention, in float32."""
    found = subjects.freeze(
        merge_block=merge_block, batch=batch, target="torch-cuda", attention="fused"
    )
    if depth < len(found.module.blocks):  # a trial: the last block, which reads less, stays
        kept = [*range(depth - 1), len(found.module.blocks) - 1]
        found.module.blocks = nn.ModuleList(found.module.blocks[index] for index in kept)
    return found


# -- ways to bring the bias log(size) to the keys ----------------------------------------------


def no_bias(_: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Leave it out: wrong, and the least that attention can take."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def in_values(_: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """softmax(s + log n) v = sum(n e^s v) / sum(n e^s): sizes go into 8 more columns of v."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    size = bias.exp().transpose(-2, -1).expand(-1, v.shape[1], -1, -1)
    wide = torch.cat([v * size, size, torch.zeros_like(v[..., :7])], dim=-1)
    mixed = F.scaled_dot_product_attention(q, k, wide, scale=1.0)
    width = v.shape[-1]
    return mixed[..., :width] / mixed[..., width : width + 1]


def in_keys(_: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Q' = [q, 1, 0...], k' = [k, bias, 0...]: the bias is a part of the product."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    ones, zeros = torch.ones_like(q[..., :1]), torch.zeros_like(q[..., :7])
    column = bias.transpose(-2, -1).expand(-1, k.shape[1], -1, -1)
    wide_q = torch.cat([q, ones, zeros], dim=-1)
    wide_k = torch.cat([k, column, torch.zeros_like(k[..., :7])], dim=-1)
    wide_v = torch.cat([v, torch.zeros_like(v[..., :8])], dim=-1)
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., : v.shape[-1]]


def flex(_: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Let flex attention add it."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    flat = bias[:, 0, 0]

    def score(s: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return s + flat[b, j]

    return flexible.flex_attention(q, k, v, score_mod=score, scale=1.0)


def written_out(_: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Write it out: the compiler fuses the bias into the softmax."""
    logits = q @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(dim=-1) @ v


def by_kernel(name: str) -> Callable[..., Any]:
    """Return the mask in the kernel of this name alone, where there is a mask."""
    wanted = getattr(kernels.SDPBackend, name)

    def attend(_: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
        if bias is None:
            return F.scaled_dot_product_attention(q, k, v, scale=1.0)
        with kernels.sdpa_kernel(wanted):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)

    return attend


WAYS: dict[str, Any] = {
    "no bias (wrong)": no_bias,
    "bias in values": in_values,
    "bias in keys": in_keys,
    "flex attention": flex,
    "efficient kernel": by_kernel("EFFICIENT_ATTENTION"),
    "cudnn kernel": by_kernel("CUDNN_ATTENTION"),
    "written out": written_out,
}


def with_way(module: Any, way: Any) -> Any:
    """Let every attention of a frozen module bring the bias this way."""
    for block in module.blocks:
        block.attn._fused = way.__get__(block.attn)
    return module


# -- one batch ---------------------------------------------------------------------------------


class Bench:
    """Prepares contenders for one batch and measures them in turn."""

    def __init__(self, options: argparse.Namespace, batch: int, report: dict[str, Any]) -> None:
        self.options, self.batch, self.report = options, batch, report
        self.cuda = options.device == "cuda"
        self.dtype = torch.float16 if self.cuda else torch.float32
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(batch, 3, IMAGE, IMAGE, generator=generator).to(options.device)
        self.runs: dict[str, Callable[[], Any]] = {}
        self.expected: Any = None

    def prepare(self, name: str, make: Callable[[], Any], *, compare: bool = False) -> None:
        """Make a contender and record what it takes, or why there is none."""
        began = time.monotonic()
        entry: dict[str, Any] = {"name": name}
        self.report["contenders"].append(entry)
        if time.time() > self.options.prepared_by:
            entry["failed"] = "skipped: no time left"
            return
        try:
            run = make()
            entry["prepared_s"] = round(time.monotonic() - began, 1)
            logits = run().float()
            self.wait()
            if compare and self.expected is not None:
                scale = self.expected.abs().max()
                entry["relative_difference"] = float((logits - self.expected).abs().max() / scale)
            self.runs[name] = run
        except Exception as error:  # noqa: BLE001  # one failure must not lose the rest
            entry["failed"] = f"{type(error).__name__}: {str(error).strip()[:400]}"
            entry["trace"] = traceback.format_exc()[-1500:]
        tell(self.batch, f"{name}: {entry.get('failed', entry.get('prepared_s'))}")

    def wait(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def compiled(self, module: Any) -> Callable[[], Any]:
        """Compile a module for this batch and record it."""
        module = module.eval().requires_grad_(False).to(self.images.device)
        return self.recorded(torch.compile(module, dynamic=False, fullgraph=True))

    def recorded(self, call: Callable[[Any], Any]) -> Callable[[], Any]:
        """Record a call as one CUDA graph; on a CPU call it."""

        def once() -> Any:
            with torch.inference_mode():
                return call(self.images)

        if not self.cuda:
            once()
            return once
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = once()

        return functools.partial(replay, graph, logits, call)

    def measure(self) -> None:
        """Time every contender, in changing order, and record medians in ms."""
        times: dict[str, list[float]] = {name: [] for name in self.runs}
        names = list(self.runs)
        shuffle = random.Random(0)
        for round_number in range(self.options.rounds + 5):
            shuffle.shuffle(names)
            for name in names:
                taken = self.once(self.runs[name])
                if round_number >= 5:
                    times[name].append(taken)
        for entry in self.report["contenders"]:
            found = times.get(entry["name"])
            if found:
                entry["median_ms"] = statistics.median(found)
                entry["p10_ms"] = sorted(found)[len(found) // 10]

    def once(self, run: Callable[[], Any]) -> float:
        """Return how long one run takes, in ms, on an idle device."""
        if not self.cuda:
            began = time.perf_counter()
            run()
            return (time.perf_counter() - began) * 1e3
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        before.record()
        run()
        after.record()
        torch.cuda.synchronize()
        return float(before.elapsed_time(after))


def replay(graph: Any, logits: Any, _: Any) -> Any:
    """Launch a recorded call; what it was recorded from has to live as long, with its weights."""
    graph.replay()
    return logits


def package_of(options: argparse.Namespace, batch: int, merge: int | None, folder: Path) -> Path:
    """Export, type and build this toolkit's package for a batch; return its path."""
    engines: Any = registry.import_or_explain("engines")
    name = "plain" if merge is None else "merged"
    stage = frozen(merge, batch, 12)
    found = stage.source.freeze(batch=batch, target="torch-cuda")
    graph: Path = found.to_onnx(folder / f"{name}.onnx")
    target = f"torch-{options.device}"
    if options.device == "cuda":
        quantize: Any = registry.import_or_explain("calibration.graph_typing")
        recipe: Any = registry.import_or_explain("calibration.recipe")
        gs: Any = registry.import_or_explain("onnx_graphsurgeon")
        onnx: Any = registry.import_or_explain("onnx")
        loaded: Any = registry.import_or_explain("engines.targets._lookup").load_target(target)
        made = recipe.typed_graph(graph, quantize.recipe_for(loaded, FP16))
        graph = folder / f"{name}.fp16.onnx"
        onnx.save(gs.export_onnx(made), str(graph))
    built: Path = engines.build(graph, target=target)
    return built


def opened(options: argparse.Namespace, bench: Bench, folder: Path, name: str) -> Any:
    """Open a package that another process builds; return a call that runs it.

    The engine runs it once, for its logits and for its own figures; what is timed among the others
    is the package itself, recorded like them.
    """
    waiting = folder / f"{name}.json"
    while not waiting.exists():
        if time.time() > options.prepared_by:
            raise TimeoutError("the package was not built in time")
        time.sleep(0.2)
    answer = json.loads(waiting.read_text())
    if "failed" in answer:
        raise RuntimeError(answer["failed"])
    bench.report[f"{name} package"] = answer
    engines: Any = registry.import_or_explain("engines")
    feeds = {"images": bench.images.cpu().numpy()}
    with engines.open(answer["path"]) as engine:
        answer["describe"] = engine.describe()
        logits = torch.from_numpy(engine.run(feeds)["logits"]).to(bench.images.device)
        if hasattr(engine, "device_times_ns"):
            engine.device_times_ns(feeds, runs=3)
    if bench.expected is not None and name == "merged":
        scale = bench.expected.abs().max()
        answer["engine_difference"] = float((logits - bench.expected).abs().max() / scale)
    package = torch._inductor.aoti_load_package(answer["path"], run_single_threaded=True)

    def call(images: Any) -> Any:
        found = package(images)
        return found[0] if isinstance(found, (list, tuple)) else found

    return bench.recorded(call)


def build_package(options: argparse.Namespace, batch: int, name: str, folder: Path) -> None:
    """Build one package in this process and say so in a file."""
    began = time.monotonic()
    try:
        path = package_of(options, batch, 6 if name == "merged" else None, folder)
        answer: dict[str, Any] = {"path": str(path), "megabytes": path.stat().st_size / 1e6}
    except Exception as error:  # noqa: BLE001  # it is told to the process that waits
        answer = {"failed": f"{type(error).__name__}: {str(error).strip()[:800]}"}
    answer["built_s"] = round(time.monotonic() - began, 1)
    temporary = folder / f"{name}.tmp"
    temporary.write_text(json.dumps(answer))
    temporary.replace(folder / f"{name}.json")


def work(options: argparse.Namespace, batch: int) -> None:
    """Prepare and measure one batch; wait in between until this process has the device alone."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    settings: Any = registry.import_or_explain("torch._dynamo.config")
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(settings, name):
            setattr(settings, name, 256)
    report: dict[str, Any] = {"batch": batch, "contenders": []}
    bench = Bench(options, batch, report)
    home = Path(options.folder)
    depth = options.depth

    def ours(found: Any, way: Any = None) -> Callable[[], Any]:
        module = found.typed(bench.dtype)
        return bench.compiled(module if way is None else with_way(module, way))

    bench.prepare("rival: plain, compiled", lambda: bench.compiled(Plain(depth).to(bench.dtype)))
    merged = frozen(6 if depth > 6 else 0, batch, depth)  # a trial merges in the first block
    with torch.inference_mode():
        bench.expected = merged.module.to(bench.images.device)(bench.images).float()
    merged.module.cpu()
    plain = frozen(None, batch, depth)
    bench.prepare("merged, compiled", lambda: ours(merged), compare=True)
    bench.prepare("plain, compiled", lambda: ours(plain))
    for name in options.ways:
        if batch in options.ways_at and time.time() < options.prepared_by - _FOR_PACKAGES_S:
            make = functools.partial(ours, merged, WAYS[name])
            bench.prepare(f"merged, {name}", make, compare=True)
    bench.prepare("merged, package", lambda: opened(options, bench, home, "merged"), compare=True)
    bench.prepare("plain, package", lambda: opened(options, bench, home, "plain"))
    (home / "ready").touch()
    while not (home / "go").exists():
        time.sleep(0.05)
    try:
        bench.measure()
        own_clocks(bench)
    except Exception as error:  # noqa: BLE001  # what was measured is written all the same
        report["failed"] = f"{type(error).__name__}: {str(error).strip()[:800]}"
    (home / "report.json").write_text(json.dumps(report, indent=1))


def own_clocks(bench: Bench) -> None:
    """Record what our engine says of each package: the GPU's clock, and a whole run with copies."""
    engines: Any = registry.import_or_explain("engines")
    feeds = {"images": bench.images.cpu().numpy()}
    for name in ("merged", "plain"):
        answer = bench.report.get(f"{name} package", {})
        if "describe" not in answer:
            continue
        with engines.open(answer["path"]) as engine:
            engine.run(feeds)
            if hasattr(engine, "device_times_ns"):
                found = engine.device_times_ns(feeds, runs=bench.options.rounds)
                answer["engine_gpu_ms"] = statistics.median(found) / 1e6
            for kind, run in (
                ("engine_bound_ms", engine.bind(feeds)),
                ("engine_run_ms", lambda: engine.run(feeds)),  # called in here
            ):
                taken = []
                for _ in range(bench.options.rounds):
                    began = time.perf_counter()
                    run()
                    taken.append((time.perf_counter() - began) * 1e3)
                answer[kind] = statistics.median(taken)


# -- all batches -------------------------------------------------------------------------------


def main() -> int:
    """Prepare all batches at once, measure one after the other, write what was found."""
    options = parse()
    if options.worker is not None:
        work(options, options.worker)
        return 0
    if options.package is not None:
        build_package(options, int(options.package[0]), options.package[1], Path(options.folder))
        return 0
    began = time.time()
    document: dict[str, Any] = {"kind": "gpu_torch", "device": device(options), "batches": []}
    with tempfile.TemporaryDirectory(prefix="fpet-export-", ignore_cleanup_errors=True) as top:
        started: list[tuple[int, Path, Any]] = []
        others = []
        for batch in options.batches:
            home = Path(top) / str(batch)
            home.mkdir()
            words = [*own_words(options, began), "--folder", str(home)]
            environment = {**os.environ, "TMPDIR": top, "TORCHINDUCTOR_COMPILE_THREADS": "4"}
            for name in ("merged", "plain"):
                line = [*words, "--package", str(batch), name]
                others.append(subprocess.Popen(line, env=environment))
            line = [*words, "--worker", str(batch)]
            started.append((batch, home, subprocess.Popen(line, env=environment)))
        for _, home, process in started:
            while process.poll() is None and not (home / "ready").exists():
                time.sleep(0.1)
        for process in others:
            if process.poll() is None:
                process.kill()
            process.wait()
        for batch, home, process in started:
            (home / "go").touch()
            process.wait()
            report_path = home / "report.json"
            found = (
                json.loads(report_path.read_text())
                if report_path.exists()
                else {"batch": batch, "failed": f"its process ended with {process.returncode}"}
            )
            document["batches"].append(found)
            show(found)
            if options.output is not None:
                storage.write_text(options.output, json.dumps(document, indent=1) + "\n")
    document["took_s"] = round(time.time() - began, 1)
    if options.output is not None:
        storage.write_text(options.output, json.dumps(document, indent=1) + "\n")
    tell(0, f"all took {document['took_s']} s")
    return 0


def show(report: dict[str, Any]) -> None:
    """Print the table of one batch."""
    print_line(f"\nbatch {report['batch']}  {report.get('failed', '')}")
    entries = report.get("contenders", [])
    base = next((e["median_ms"] for e in entries if "median_ms" in e), None)
    for name in ("merged package", "plain package"):
        found = {k: v for k, v in report.get(name, {}).items() if isinstance(v, float)}
        if found:
            print_line(f"  {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items()))
    for entry in entries:
        took = entry.get("median_ms")
        text = entry.get("failed", "not measured") if took is None else f"{took:9.4f} ms"
        ratio = f"{took / base:7.3f}" if took is not None and base else ""
        far = entry.get("relative_difference")
        print_line(
            f"  {entry['name']:30} {text[:90]} {ratio}" + (f"  off {far:.1e}" if far else "")
        )


def own_words(options: argparse.Namespace, began: float) -> list[str]:
    """Return the line that starts this program again for a part of the work."""
    by = began + options.prepare_s
    words = [sys.executable, "-m", "benchmarks.experiments.gpu_torch", "--device", options.device]
    words += ["--depth", str(options.depth), "--rounds", str(options.rounds)]
    words += ["--prepared-by", str(by), "--ways-at", ",".join(map(str, options.ways_at))]
    return [*words, "--ways", ",".join(options.ways)]


def device(options: argparse.Namespace) -> dict[str, str]:
    """Return what it runs on."""
    found = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    if options.device == "cuda":
        found["name"] = torch.cuda.get_device_name()
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def tell(batch: int, line: str) -> None:
    """Say how far the work is."""
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] batch {batch}: {line}\n")
    sys.stderr.flush()


def print_line(line: str) -> None:
    """Write a line of a table."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.gpu_torch")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--batches", type=numbers, default=[1, 8, 64])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--depth", type=int, default=12, help="blocks; the packages keep 12")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--ways", type=ways, default=list(WAYS), help="of the bias; all")
    parser.add_argument("--ways-at", type=numbers, default=[8, 64], help="at which batches")
    parser.add_argument("--prepare-s", type=float, default=120.0, help="seconds for compilers")
    parser.add_argument("--prepared-by", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--package", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def ways(text: str) -> list[str]:
    """Read names of ways; "" means none."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Read whole numbers that commas separate."""
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
