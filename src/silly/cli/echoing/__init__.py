"""The parts of ``silly echo``; the command itself is ``silly/cli/echo.py``.

======================  ==================================================
``meter.py``            counts of connections, bytes and answers
``impairment.py``       late, slow and lost answers, to simulate a bad network
``chargen.py``          the character pattern of RFC 864
``modes.py``            how each mode answers connections
``datagrams.py``        how each mode answers datagrams
``log.py``              a line for each event, and the summary
``view.py``             the live view, for a terminal
======================  ==================================================
"""
