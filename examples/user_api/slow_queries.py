"""Exercise 5: a log of slow queries: ``python slow_queries.py``, with the options of app.py."""

from __future__ import annotations

import logging

import silly
from app import Services, main
from silly.net import http

SLOW = 0.1  # seconds

logger = logging.getLogger("user_api.slow")


def log_slow_queries(routes: http.Router, services: Services) -> None:
    """Log each statement that takes longer than `SLOW`: its text, never the values."""

    def watch(sql: str, seconds: float) -> None:
        if seconds > SLOW:
            logger.warning("%.0f ms: %s", seconds * 1000, " ".join(sql.split()))

    services.database.on_query = watch


if __name__ == "__main__":
    silly.run(main(log_slow_queries))
