"""What ``silly connect`` is made of; the command itself is ``silly/cli/connect.py``.

====================  ====================================================
``shaping.py``        pure: CR LF, safe text, hexdumps, timestamps
``pipe.py``           standard input and output, without blocking the loop
``prompt.py``         the line mode of a terminal
====================  ====================================================
"""
