"""The first program: ``silly examples/hello.py``."""

import os

import silly

print("Hello, Silly!")
print("Process:", os.getpid())
print("Version:", silly.__version__)
