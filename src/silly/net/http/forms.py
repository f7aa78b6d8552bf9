"""Forms: fields, and files that are uploaded."""

from __future__ import annotations

from silly.net.http.errors import HTTPError
from silly.net.http.fields import Query
from silly.net.http.request import Request

__all__ = ["Form", "read_form"]


class Form(Query):
    """The fields of a form, by name."""

    __slots__ = ()


async def read_form(request: Request) -> Form:
    """Read the form in the body of *request*."""
    raise HTTPError(415, "not a form")
