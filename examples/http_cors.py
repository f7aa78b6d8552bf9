"""An API that pages of other sites may use (CORS): ``silly examples/http_cors.py``."""

from silly.net import http

ORIGINS = {"https://example.com", "http://localhost:3000"}

routes = http.Router()


@routes.use
def with_cors(handler: http.Handler) -> http.Handler:
    """Tell browsers that pages of the known origins may read the responses."""

    async def handle(request: http.Request) -> http.Response:
        response: http.Response = await handler(request)
        response.add_header("vary", "origin")
        origin = request.headers.get("origin")
        if origin in ORIGINS:
            response.add_header("access-control-allow-origin", origin)
            if "access-control-request-method" in request.headers:  # a preflight
                response.add_header("access-control-allow-methods", "GET, POST, PUT, DELETE")
                response.add_header("access-control-allow-headers", "content-type, authorization")
                response.add_header("access-control-max-age", "600")
        return response

    return handle


@routes.get("/api/status")
async def status(request: http.Request) -> http.Response:
    """Answer with JSON."""
    return http.json({"status": "ok"})


http.listen("127.0.0.1:8080", routes)
