"""Record which options trtexec knows, in tests/golden/trtexec_options.json.

    python tests/golden/make_trtexec_options.py CLONE v10.3.0 v10.13.0 v10.16 v11.1

CLONE is a clone of github.com/NVIDIA/TensorRT with these tags. The options are those that its
`samples/common/sampleOptions.cpp` reads.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

SOURCE = "samples/common/sampleOptions.cpp"
GOLDEN = Path(__file__).with_name("trtexec_options.json")


def options_of(clone: str, tag: str) -> list[str]:
    """Return the options that trtexec of a tag reads, without dashes."""
    command = ("git", "-C", clone, "show", f"{tag}:{SOURCE}")
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r'"--(\w+)"', text)))


if __name__ == "__main__":
    clone, *tags = sys.argv[1:]
    recorded = {tag: options_of(clone, tag) for tag in tags}
    lines = json.dumps(recorded, separators=(",", ":")).replace('],"', '],\n"')
    GOLDEN.write_text(lines + "\n", "utf-8")
