"""Messages to all who want them, in this process or on many machines.

::

    from silly import pubsub

    bus = await pubsub.connect("memory:")  # or redis://HOST:6379, or nats://HOST:4222

    async with bus.subscribe("room.*") as messages:
        await bus.publish("room.general", b"hello")
        async for message in messages:
            print(message.subject, message.data)

A program says the same to each kind of bus, and is told the same; the URL selects it:

- ``memory:`` needs nothing, and reaches one process.
- ``redis://`` and ``rediss://`` (extra ``pubsub-redis``: redis-py), ``nats://`` and ``tls://``
  (extra ``pubsub-nats``: nats-py) reach all processes that are connected to the same server.

A message goes to the subscriptions of that moment, and is stored nowhere. Nothing is lost
without notice: `Bus.publish` raises if the broker has not confirmed a message, and
`Message.gap` tells a subscriber that messages may be missing.

- `connecting`: `connect`, from a URL to a bus.
- `bus`, `subscription`, `message`: what all buses have in common.
- `subjects`: subjects, and the patterns that match them.
- `memory`: a bus inside one process.
- `broker`: a bus over a broker: reconnecting, deadlines; over a `link`, which `redis` and
  `nats` implement.
- `limits`, `stats`, `errors`: bounds, counts, what is raised.
"""

from __future__ import annotations

from silly.pubsub.bus import Bus
from silly.pubsub.connecting import connect
from silly.pubsub.errors import PublishError, PublishTimeout
from silly.pubsub.limits import Limits
from silly.pubsub.message import Message
from silly.pubsub.stats import BusStats
from silly.pubsub.subscription import Subscription, SubscriptionStats

__all__ = [
    "Bus",
    "BusStats",
    "Limits",
    "Message",
    "PublishError",
    "PublishTimeout",
    "Subscription",
    "SubscriptionStats",
    "connect",
]
