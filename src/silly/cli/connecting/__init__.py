"""The parts of ``silly connect``; the command itself is ``silly/cli/connect.py``.

====================  ====================================================
``opening.py``        the connections to talk on
``talking.py``        from the input to the connection, and back
``notes.py``          what is said on standard error
``shaping.py``        CR LF, safe text, hexdumps, timestamps (no I/O)
``pipe.py``           standard input and output, without blocking the loop
``prompt.py``         line mode, for a terminal
``datagrams.py``      UDP, as a connection
``starttls.py``       protocols that begin in the clear and ask for TLS
====================  ====================================================
"""
