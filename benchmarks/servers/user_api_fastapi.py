"""The API of users of examples/user_api with FastAPI: the same pool, cache, drivers and answers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "user_api"))

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app import DEADLINE, Services, opened
from database import Conflict, DatabaseError, Duplicate, Unavailable
from users import NotFoundError


class User(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=50)]
    email: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^\S+@\S+$")]
    age: Annotated[int, Field(ge=0, le=200)] | None = None


services: Services


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global services
    environ = os.environ
    async with opened(environ["DATABASE_URL"], environ.get("CACHE_URL", "")) as services:
        yield


app = FastAPI(lifespan=lifespan)


def failed(status: int, text: str) -> JSONResponse:
    return JSONResponse({"success": False, "error": text}, status)


class Deadline:
    """What `app.middleware("http")` would do, without its cost."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(DEADLINE):
                await self.app(scope, receive, send)
        except TimeoutError:
            await failed(503, "This took too long")(scope, receive, send)


app.add_middleware(Deadline)


@app.exception_handler(NotFoundError)
async def not_found(request: Request, error: Exception) -> JSONResponse:
    return failed(404, "User not found")


@app.exception_handler(DatabaseError)
async def no_database(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Duplicate):
        return failed(409, "This email is taken")
    return failed(503 if isinstance(error, Unavailable | Conflict) else 500, "Database error")


@app.get("/api/users")
async def get_users() -> JSONResponse:
    return JSONResponse({"success": True, "data": await services.users.get_all()})


@app.get("/api/users/{user_id}")
async def get_user(user_id: int) -> JSONResponse:
    return JSONResponse({"success": True, "data": await services.users.get(user_id)})


@app.put("/api/users/{user_id}")
async def update_user(user_id: int, user: User) -> JSONResponse:
    await services.users.update(user_id, user.name, user.email, user.age)
    return JSONResponse({"success": True, "message": "User updated successfully"})
