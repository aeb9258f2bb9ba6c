"""What each error ends a process with: the contract, written down once for the tests."""

from __future__ import annotations

EXIT_CODES = {
    "FpetError": 1,
    "UsageError": 2,
    "UnknownNameError": 2,
    "InputError": 3,
    "CheckpointError": 3,
    "MissingDependencyError": 4,
    "MachineError": 4,
    "ExportError": 5,
    "FoldError": 5,
    "EngineError": 6,
    "ParityError": 7,
    "BudgetError": 8,
    "MeasurementError": 9,
    "TrustError": 10,
    "RemoteError": 11,
}
