"""What belongs to one event loop, or to the process that runs it."""
