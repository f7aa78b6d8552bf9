"""The parts of ``silly bench``, from plain data up to processes:

- `plan`: the settings of a run; `encryption`: those of TLS; `sizes`, `schedule`, `asserts`:
  settings with a syntax.
- `messages`: requests and their expected replies; `verify`: the diagnosis of a wrong reply;
  `replies`: the replies that a connection owes.
- `http_request`: the requests of a run over HTTP; `http_replies`: the replies to them; `chunks`:
  bodies in chunks.
- `websocket_target`: the server of a run over WebSockets; `websocket_replies`: its messages.
- `histogram`, `recorder`: latencies and counts.
- `dispatcher`: which requests may be sent, and when; `connector`: opens connections.
- `lane`: a connection that sends requests and checks replies; `lanes`: its kinds;
  `datagram_lane`: those over UDP; `fan_out_lane`: one that sends to many.
- `generator`: the lanes of one worker; `worker`: a process that runs a generator;
  `fleet`: all worker processes.
- `session`: one run, from connecting to the result; `progress`: its progress as lines,
  `view`: on the terminal.
- `result`: the published result; `published` reads it back; `summary`, `report` (with
  `charts`), `compare` and `find_max` work on it.

Logic is below, I/O above: nothing listed before `dispatcher` touches a socket or a clock.
"""
