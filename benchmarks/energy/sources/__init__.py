"""Where energy is read from: one file a source, tried in the order of `benchmarks.energy.find`.

A source offers `open_sensor(machine) -> Sensor | Missing`. It opens nothing that the caller has
not to close, and it takes no number for granted: what it returns was read once.
"""
