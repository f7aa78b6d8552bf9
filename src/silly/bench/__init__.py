"""What ``silly bench`` is made of. From plain data up to processes:

- `plan`: what is asked for; `sizes`, `schedule`, `asserts`: parts of it, as text and data.
- `messages`: requests and the replies that they must have; `verify`: what is wrong with one.
- `histogram`, `recorder`: what happened, counted.
- `generator`: connections that send and check; `worker`: a process of them;
  `fleet`: all of these processes.
- `result`: what came out, in the published form; `summary`, `report`, `compare`,
  `find_max`: what is made of it.

Logic is below, I/O above: nothing under `generator` touches a socket or a clock.
"""
