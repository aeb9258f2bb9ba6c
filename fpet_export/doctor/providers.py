"""Whether ONNX Runtime's GPU providers start, and whether two packages of it are mixed."""

from __future__ import annotations

import json
import subprocess
import sys

from engines.backends._ort.packages import installed, mend
from fpet_export.doctor.findings import Findings

_SECONDS = 120
_PROGRAM = """\
import json
from engines.backends import ort
from engines.errors import FpetError

found = {}
for provider in ("cuda", "tensorrt"):
    try:
        found[provider] = ort.try_provider(provider)
    except FpetError as error:
        found[provider] = [error.what, error.fix]
print(json.dumps(found))
"""


def version() -> str | None:
    """Return the version and, where it is not the usual one, the name of the package."""
    found = installed()
    return (
        " and ".join(
            number if name == "onnxruntime" else f"{number} ({name})"
            for name, number in found.items()
        )
        or None
    )


def check_providers(findings: Findings) -> None:
    """Start each GPU provider that the package has, in a process of its own."""
    found = installed()
    if len(found) > 1:
        findings.gap(
            "onnxruntime",
            "two packages of it are installed, and each has overwritten files of the other",
            mend(),
            needed=True,
        )
    if list(found) != ["onnxruntime-gpu"]:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=_SECONDS
        )
        answers = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        findings.unknown("providers", "ONNX Runtime crashed when it was asked")
        return
    findings.document["providers"] = answers
    for provider, reason in answers.items():
        if reason is None:
            findings.fact(f"provider {provider}", "starts, in ONNX Runtime")
        else:
            findings.gap(f"provider {provider}", *reason, needed=False)
