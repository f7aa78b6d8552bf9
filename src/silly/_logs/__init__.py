"""How the package logs: nothing that a log handler does can hurt it; tracebacks that help."""
