"""Fold, freeze and export fine-tuned ViTs with FPET token merging."""

__version__ = "0.1.0"
