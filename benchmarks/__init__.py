"""Measure engines honestly: paired, interleaved, with the evidence beside every number."""
