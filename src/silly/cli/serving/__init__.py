"""The parts of ``silly serve``."""
