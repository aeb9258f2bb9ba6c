"""The README beside a configuration: how to run it, and what is not equal to `predict`."""

from __future__ import annotations

import dataclasses
import shlex
import textwrap
from collections.abc import Sequence

from engines.imaging.preparation import resizing_in_words
from engines.manifest import Manifest
from fpet_export.deepstream.crop import Box
from fpet_export.deepstream.nvinfer import LIBRARY, PARSER, PLAN, Inference, batch_size
from fpet_export.deepstream.releases import LATEST

CONFIG = "config_infer.txt"
INCLUDES = "/opt/nvidia/deepstream/deepstream/sources/includes"
LONGEST_LABEL = 127
"""Bytes of a label that NvDsLabelInfo keeps (MAX_LABEL_SIZE in nvdsmeta.h, with its end)."""

_MUXER = (1920, 1080)
"""Size at which frames are batched where nothing depends on it."""
_FILTERS = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "cubic", "lanczos": "Lanczos"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guide:
    """What the README is about.

    Attributes:
        manifest: Of the plan.
        how: How nvinfer runs it.
        frame: (width, height) of the video, where it is known.
        box: Part of each frame that is cut out before nvinfer; None cuts nothing.
        releases: DeepStream releases that have the plan's TensorRT.
    """

    manifest: Manifest
    how: Inference
    frame: tuple[int, int] | None
    box: Box | None
    releases: Sequence[str]

    def text(self) -> str:
        """Return the README."""
        parts = [f"# {PLAN} in DeepStream", self._needs(), "## Run it"]
        if self.how.names_classes:
            parts += ["Compile the parser once, where DeepStream is installed:"]
            parts += [_fenced([compile_line()])]
        parts += [self._pipeline_intro(), _fenced(self._pipeline())]
        parts += ["For `deepstream-app`, in its configuration:", _fenced(self._group())]
        parts += [self._in_the_app(), self._answers(), "## What is not equal"]
        parts += ["\n".join(_wrapped(f"- {one}", under=2) for one in self.not_equal())]
        return "\n\n".join(_wrapped(part) for part in parts) + "\n"

    def not_equal(self) -> tuple[str, ...]:
        """Return in which points the answers may differ from those of `fpet-export predict`."""
        preprocessing = self.manifest.preprocessing
        assert preprocessing is not None  # `require_servable` saw it
        height, width = preprocessing.size
        name = preprocessing.interpolation
        found = [
            f"**Resizing.** The run was prepared with Pillow's {name} filter, which averages over "
            f"all pixels when it shrinks an image. nvinfer's {_FILTERS[name]} filter on the GPU "
            f"does not. A picture of exactly {width}x{height} pixels gives the same input; others "
            "give a slightly different one. Compare the classes of some frames with those of "
            "`fpet-export predict` before you rely on them.",
            "**Colours.** A video is decoded to YUV with one colour for two pixels by two, and "
            "becomes RGB on the GPU. An image file of the same frame has other colours by some "
            "levels.",
        ]
        if self.how.detector is not None:
            found.append(
                "**Objects.** The rectangle of an object is rounded to even pixels and scaled to "
                f"{width}x{height} without keeping its aspect ratio. With a tracker before it, "
                "nvinfer classifies an object again only when it has grown by a fifth, unless "
                "`secondary-reinfer-interval` says how often."
            )
        if self.box is not None:
            found.append(
                f"**Crop.** `src-crop={self.box.in_words()}` is the part that the preprocessing "
                f"keeps ({resizing_in_words(preprocessing)}), rounded to even pixels; it is cut "
                "before it is scaled, and the run was prepared the other way round. It holds for "
                f"videos of {_size(self.frame)} only."
            )
        elif preprocessing.crop < 1.0:
            found.append(
                "**No crop.** The run was prepared with a crop "
                f"({resizing_in_words(preprocessing)}), and here the network sees all of each "
                f"{'frame' if self.how.detector is None else 'object'}, as `--uncropped` asked."
            )
        labels = self.manifest.labels if self.how.names_classes else ()
        if any(len(name.encode()) > LONGEST_LABEL for name in labels):
            found.append(
                f"**Long names.** DeepStream keeps {LONGEST_LABEL} bytes of a class name; "
                "`result_class_id` says which class it is."
            )
        return tuple(found)

    def _needs(self) -> str:
        runtime = self.manifest.runtime
        assert runtime is not None  # `require_servable` saw it
        capabilities = ", ".join(runtime.compute_capabilities)
        on = f" for compute capability {capabilities}" if capabilities else ""
        which = " or ".join(self.releases) or f"none of the releases up to {LATEST}"
        return (
            f"Built by TensorRT {runtime.version}{on}; it loads into that TensorRT on such a GPU "
            f"only. DeepStream with it: {which}. The configuration names no ONNX file: where the "
            "plan does not load, DeepStream stops and builds no other one."
        )

    def _pipeline_intro(self) -> str:
        if self.how.names_classes:
            return "Then, for `/path/video.mp4`, in this folder; it leaves images with the text:"
        return (
            "For a video `/path/video.mp4`, in this folder; an application reads the outputs where "
            "`fakesink` is:"
        )

    def _pipeline(self) -> list[str]:
        width, height = self.frame or _MUXER
        on = f" gpu-id={self.how.gpu}" if self.how.gpu else ""
        source = f"nvurisrcbin{on}" if on else "uridecodebin"
        lines = [f"gst-launch-1.0 {source} uri=file:///path/video.mp4 ! \\"]
        if self.box is not None:
            width, height = self.box.width, self.box.height
            lines += [
                f"  nvvideoconvert{on} src-crop={self.box.in_words()} ! \\",
                f"  'video/x-raw(memory:NVMM),width={width},height={height}' ! \\",
            ]
        muxer = f"name=mux{on} batch-size=1 width={width} height={height}"
        lines += [f"  mux.sink_0 nvstreammux {muxer} ! \\"]
        if self.how.detector is not None:
            lines += ["  nvinfer config-file-path=DETECTOR.txt ! \\"]
        lines += [f"  nvinfer config-file-path={CONFIG} ! \\"]
        if not self.how.names_classes:
            return [*lines, "  fakesink"]
        return [
            *lines,
            f"  nvvideoconvert{on} ! nvdsosd{on} ! nvvideoconvert{on} ! \\",
            "  'video/x-raw,format=I420' ! jpegenc ! multifilesink location=frame_%05d.jpg",
        ]

    def _group(self) -> list[str]:
        """Return the group of deepstream-app's configuration."""
        detector = self.how.detector
        if detector is None:
            return ["[primary-gie]", "enable=1", f"config-file={CONFIG}", "gie-unique-id=1"]
        return [
            "[secondary-gie0]", "enable=1", f"config-file={CONFIG}",
            f"gie-unique-id={detector + 1}", f"operate-on-gie-id={detector}",
        ]  # fmt: skip

    def _in_the_app(self) -> str:
        text = (
            f"Leave `batch-size` out there, or set it to {batch_size(self.manifest)}: the plan has "
            "this batch, and nvinfer fills up what is missing."
        )
        if self.box is None:
            return text
        return (
            f"{text} deepstream-app does not crop sources; the answers are then those of the whole "
            "frame. Use a pipeline like the one above."
        )

    def _answers(self) -> str:
        if self.how.names_classes:
            return (
                f"`{PARSER}` becomes `{LIBRARY}`, which nvinfer calls. It names the likeliest "
                "class with its softmax probability; `classifier-threshold` may be raised from 0 "
                "to hide classes whose probability is not above it. nvinfer's own parser must not "
                "be used: it gives no class where all logits are negative."
            )
        names = ", ".join(f"`{one.name}` {list(one.shape)}" for one in self.manifest.outputs)
        text = (
            f"The outputs are attached as they are ({names}): read them from `NvDsInferTensorMeta` "
            "in the frame's or the object's user metadata."
        )
        if self.manifest.head != "logits":
            return text
        return f"{text} They are logits: the likeliest class has the largest, even if negative."


def _fenced(lines: Sequence[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _wrapped(text: str, *, under: int = 0) -> str:
    """Return a paragraph in lines of at most 100 characters; other parts stay as they are."""
    if text.startswith(("#", "```")) or "\n" in text:
        return text
    return textwrap.fill(
        text, 100, subsequent_indent=" " * under, break_on_hyphens=False, break_long_words=False
    )


def compile_line() -> str:
    """Return the command that compiles the parser, in its folder."""
    return shlex.join(
        ("g++", "-std=c++14", "-O2", "-shared", "-fPIC", f"-I{INCLUDES}", PARSER, "-o", LIBRARY)
    )


def _size(frame: tuple[int, int] | None) -> str:
    width, height = frame or _MUXER
    return f"{width}x{height}"
