"""Two runs of one backbone on disk, and the folder of tasks that the command line made of them."""

from __future__ import annotations

from pathlib import Path

from tests.fpet_export.authors_run import write_run
from tests.fpet_export.command_line import LABELS, Done, call, write_files


class TaskFiles:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.one = write_files(place, method="lora")
        self.two = write_run(place / "two", method="adaptformer", bit=1)
        (place / "labels.txt").write_text("\n".join(LABELS) + "\n")
        self.out = place / "out"
        self.done = self.tasks("-o", self.out, "--labels", f"two={place / 'labels.txt'}", "--json")

    @property
    def backbone(self) -> Path:
        return self.place / "backbone.safetensors"

    @property
    def runs(self) -> tuple[str, str]:
        return f"one={self.one.text}", f"two={self.two.text}"

    def tasks(self, *words: object, runs: tuple[str, ...] | None = None) -> Done:
        """Run the verb on both runs, or others."""
        return call("tasks", *(runs or self.runs), "--backbone", self.backbone, *words)
