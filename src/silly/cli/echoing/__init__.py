"""What ``silly echo`` is made of; the command itself is ``silly/cli/echo.py``.

======================  ==================================================
``meter.py``            what happened so far, in numbers
``impairment.py``       late, slow and lost answers, to imitate a bad network
``chargen.py``          the characters of RFC 864
``modes.py``            what each mode answers to a connection
``datagrams.py``        and to a datagram
``log.py``              a line for each event
``view.py``             the live view of a terminal
======================  ==================================================
"""
