"""The chat of the tutorial: its steps, its server, its exercises, its page in a browser."""
