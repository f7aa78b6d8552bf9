"""What can go wrong when a message is published."""

from __future__ import annotations

from silly.errors import SillyError

__all__ = ["PublishError", "PublishTimeout"]


class PublishError(SillyError, ConnectionError):
    """The broker has not confirmed a message.

    Attributes:
        is_uncertain: whether subscribers may have got it all the same. True: the message had
            been sent when the connection was lost or the time was up, so publishing it
            again may deliver it twice. False: it was never sent, or the broker refused it.
    """

    is_uncertain: bool

    def __init__(self, message: str, *, address: str = "", is_uncertain: bool = False) -> None:
        super().__init__(message, address=address)
        self.is_uncertain = is_uncertain


class PublishTimeout(PublishError, TimeoutError):  # noqa: N818 - as `TimeoutError`
    """The broker did not confirm a message in time."""
