"""FastAPI: models, dependencies, uploads, streams, background tasks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, File, HTTPException, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

events: list[str] = []


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    events.append("started")
    yield {"items": {}}
    events.append("ended")


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


def connection() -> Iterator[str]:
    events.append("opened")
    yield "a connection"
    events.append("closed")


Connection = Annotated[str, Depends(connection)]


@app.get("/")
async def root() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/blocking")
def blocking(connection: Connection) -> str:
    return connection


@app.put("/items/{number}", status_code=201)
async def put(number: int, item: Item, request: Request, connection: Connection) -> Item:
    request.state.items[number] = item
    return item


@app.get("/items/{number}")
async def get(number: int, request: Request) -> Item:
    if number not in request.state.items:
        raise HTTPException(404, "no such item")
    item: Item = request.state.items[number]
    return item


@app.post("/files")
async def files(files: Annotated[list[UploadFile], File()]) -> dict[str, int]:
    return {str(file.filename): len(await file.read()) for file in files}


@app.get("/numbers")
async def numbers(count: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return StreamingResponse(lines())


@app.post("/mail")
async def mail(tasks: BackgroundTasks) -> str:
    tasks.add_task(events.append, "mail sent")
    return "accepted"


@app.get("/crash")
async def crash() -> None:
    raise ValueError("a defect of the sample")


@app.middleware("http")
async def timing(request: Request, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["x-timing"] = "0"
    return response
