"""Runtimes: one file a backend, imported only when it is chosen. See `engines.contract.Backend`."""
