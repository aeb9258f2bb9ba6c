"""What carries artefacts to another machine: bundles and signatures."""
