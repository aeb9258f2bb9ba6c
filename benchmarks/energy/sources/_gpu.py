"""What both sources of an NVIDIA GPU say."""

from __future__ import annotations

COVERS = "the GPU's board, without the rest of the machine"
IS_CUT = "the GPU is cut into MIG slices, and its sensor covers all of them"
WHICH = "which of several GPUs does the work is not known"
CHOOSE = "name one GPU in CUDA_VISIBLE_DEVICES by its UUID (nvidia-smi -L)"
