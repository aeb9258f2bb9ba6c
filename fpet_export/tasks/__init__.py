"""Many tasks on one backbone: exported, changed, checked, measured."""
