"""A JSON API over a list in memory: ``silly examples/http_api.py``."""

from typing import Any

from silly.net import http

User = dict[str, Any]
users: list[User] = [
    {"id": 1, "name": "Alice", "age": 30},
    {"id": 2, "name": "Bob", "age": 25},
]


def as_json(request: http.Request, error: http.HTTPError) -> http.Response:
    """Answer every error in the way the API answers everything."""
    return http.json({"error": error.text}, error.status, error.headers)


routes = http.Router(render=as_json)


@routes.get("/api/users")
async def list_users(request: http.Request) -> http.Response:
    """Return all users, or those whose name is asked for: ``?name=Alice``."""
    name = request.query.get("name")
    return http.json([user for user in users if name is None or user["name"] == name])


@routes.post("/api/users")
async def add_user(request: http.Request) -> http.Response:
    """Add a user; a body that is not JSON is answered with 400."""
    match await request.json():
        case {"name": str(name), "age": age} if name and type(age) is int:
            user: User = {"id": len(users) + 1, "name": name, "age": age}
            users.append(user)
            return http.json(user, 201)
    raise http.HTTPError(400, "name (text) and age (a number) are required")


http.listen("127.0.0.1:8080", routes)
