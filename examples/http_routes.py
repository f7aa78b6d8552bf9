"""Different answers for different paths: ``silly examples/http_routes.py``."""

from silly.net import http

routes = http.Router()


@routes.get("/")
async def home(request: http.Request) -> http.Response:
    """Answer GET /."""
    return http.Response("Welcome to the home page\n")


@routes.get("/about")
async def about(request: http.Request) -> http.Response:
    """Answer GET /about."""
    return http.Response("About us\n")


@routes.get("/contact")
async def contact(request: http.Request) -> http.Response:
    """Answer GET /contact."""
    return http.Response("Contact us\n")


@routes.get("/greet/{name}")
async def greet(request: http.Request) -> http.Response:
    """Answer GET /greet/, with any name."""
    return http.Response(f"Hello, {request.route_params['name']}!\n")


@routes.get("/{path:path}")
async def nothing(request: http.Request) -> http.Response:
    """Answer GET of all other paths."""
    return http.Response(f"Not found: {request.path}\n", 404)


http.listen("127.0.0.1:8080", routes)
