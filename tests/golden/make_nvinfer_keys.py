"""Record the keys of Gst-nvinfer's configuration, in tests/golden/nvinfer_keys.json.

    git clone https://github.com/NVIDIA/DeepStream    # release 9.1, Apache-2.0
    python tests/golden/make_nvinfer_keys.py DeepStream [RELEASE=HEADER ...]

A HEADER is the `gstnvinfer_property_parser.h` of another release, which DeepStream installs below
/opt/nvidia/deepstream/deepstream/sources/gst-plugins/gst-nvinfer. Names come from the headers,
types from the calls of GLib's key files in the parser; ranges are read off its tests by hand, and
what the values mean from the enumerations that are named.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_name("nvinfer_keys.json")
PARSER = "src/gst-plugins/gst-nvinfer/gstnvinfer_property_parser"

RANGES: dict[str, dict[str, object]] = {
    "batch-size": {"from": 1, "to": 1024},  # NVDSINFER_MAX_BATCH_SIZE
    "classifier-threshold": {"from": 0},
    "gie-unique-id": {"from": 1},
    "gpu-id": {"from": 0},
    "infer-dims": {"length": 3},
    "interval": {"from": 0},
    "model-color-format": {"one_of": [0, 1, 2]},  # RGB, BGR, GRAY
    "network-input-order": {"one_of": [0, 1]},  # NCHW, NHWC
    "network-mode": {"one_of": [0, 1, 2]},  # FP32, INT8, FP16; newer ones have 3, "best"
    "network-type": {"one_of": [0, 1, 2, 3, 100]},  # 1: classifier, 100: other
    "offsets": {"length": 3},
    "process-mode": {"one_of": [1, 2]},  # frames, objects
    "scaling-compute-hw": {"one_of": [0, 1]},  # default, GPU; 2 (VIC) on a Jetson alone
    "scaling-filter": {"one_of": [0, 1, 2, 3, 4, 5, 6]},  # NvBufSurfTransform_Inter
}


def names_in(header: str) -> dict[str, str]:
    """Return the macro of each key."""
    found = re.findall(r'#define (CONFIG_GROUP_INFER_\w+)\s+"([^"]+)"', header)
    return {
        macro: key for macro, key in found if not macro.startswith("CONFIG_GROUP_INFER_CLASS_ATTRS")
    }


def types_in(parser: str, names: dict[str, str]) -> dict[str, str]:
    """Return the type of each key of `[property]` that the parser reads."""
    found = {}
    for kind, arguments in re.findall(r"g_key_file_get_(\w+)\s*\(([^;]*?)\)\s*[;)]", parser):
        for macro in re.findall(r"CONFIG_GROUP_INFER_\w+", arguments):
            if macro in names:
                found[names[macro]] = kind
    return found


if __name__ == "__main__":
    repository = Path(sys.argv[1])
    headers = {"9.1": (repository / f"{PARSER}.h").read_text("utf-8")}
    headers |= {
        one.split("=")[0]: Path(one.split("=")[1]).read_text("utf-8") for one in sys.argv[2:]
    }
    names = names_in(headers["9.1"])
    types = types_in((repository / f"{PARSER}.cpp").read_text("utf-8"), names)
    keys = {
        key: {
            "type": kind,
            "releases": sorted(
                one for one, text in headers.items() if key in names_in(text).values()
            ),
            **RANGES.get(key, {}),
        }
        for key, kind in sorted(types.items())
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in keys.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n", "utf-8")
