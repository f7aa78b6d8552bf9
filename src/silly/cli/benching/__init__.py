"""The parts of ``silly bench``'s command; the command itself is ``silly/cli/bench.py``.

====================  ====================================================
``options.py``        the kinds of values, and the options of all its verbs
``planning.py``       from the options that were given to the plan
``files.py``          the results as files, and as text
``search.py``         what ``find-max`` has tried
====================  ====================================================
"""
