"""Applications of Starlette, FastAPI and Django, as they are written for any server."""
