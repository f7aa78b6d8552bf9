"""The parts of ``silly top``.

- `source`: asks the admin socket.
- `samples`: rates, from two answers.
- `tables`: samples as text.
- `view`: that text, live on a terminal.
"""
