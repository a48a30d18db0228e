"""The parts of the engine, one file an area."""
