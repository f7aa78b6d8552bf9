"""The parts of ``silly repl``.

- `session`: compiles and runs what was entered, with ``await``, interruptible.
- `prompt`: asks for it on a terminal: editing, history, completion.
"""
