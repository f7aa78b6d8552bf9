"""Users that can be changed and deleted: ``silly examples/http_users.py``."""

from itertools import count
from typing import Any

from silly.net import http

User = dict[str, Any]
ids = count(3)
users: dict[int, User] = {
    1: {"id": 1, "name": "Alice", "age": 30},
    2: {"id": 2, "name": "Bob", "age": 25},
}
routes = http.Router(
    render=lambda request, error: http.json({"error": error.text}, error.status, error.headers)
)


async def sent_user(request: http.Request, user_id: int) -> User:
    """Return the user in the body, checked."""
    match await request.json():
        case {"name": str(name), "age": age} if name and type(age) is int:
            return {"id": user_id, "name": name, "age": age}
    raise http.HTTPError(400, "required: name (text) and age (a number)")


def known_user(request: http.Request) -> User:
    """Return the user that the path names."""
    user = users.get(request.route_params["id"])
    if user is None:
        raise http.HTTPError(404, "no such user")
    return user


@routes.post("/api/users")
async def add_user(request: http.Request) -> http.Response:
    """Add a user, with an id that no other has had."""
    user = await sent_user(request, next(ids))
    users[user["id"]] = user
    return http.json(user, 201, {"location": f"/api/users/{user['id']}"})


@routes.get("/api/users/{id:int}")
async def get_user(request: http.Request) -> http.Response:
    """Return one user."""
    return http.json(known_user(request))


@routes.put("/api/users/{id:int}")
async def put_user(request: http.Request) -> http.Response:
    """Replace a user."""
    user = await sent_user(request, known_user(request)["id"])
    users[user["id"]] = user
    return http.json(user)


@routes.delete("/api/users/{id:int}")
async def delete_user(request: http.Request) -> http.Response:
    """Delete a user."""
    del users[known_user(request)["id"]]
    return http.Response(status=204)


http.listen("127.0.0.1:8080", routes)
