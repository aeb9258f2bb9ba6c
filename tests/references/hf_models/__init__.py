"""Whole models of Hugging Face's transformers: the library's own logits against this toolkit's.

The library has an environment of its own (`requirements.txt`), where `write` makes small random
models and their logits; `compare` reads them here. The folders in `tests/fpet_export/hf_models`
were written so: they prove the same where transformers is not installed.
"""
