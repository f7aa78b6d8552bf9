"""The brokers that the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pubsub.brokers import running


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bus of the kind that is the parameter; its broker runs."""
    if request.param == "memory":
        yield "memory:"
        return
    with running(request.param, tmp_path_factory.mktemp(request.param)) as broker:
        yield broker.url
