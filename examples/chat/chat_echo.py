"""Step 1: sends each message back: ``silly examples/chat/chat_echo.py``."""

from silly.net import websocket


async def echo(ws: websocket.WebSocket) -> None:
    """Answer each message until the client leaves."""
    async for message in ws:
        if isinstance(message, str):  # text; a binary message is bytes
            await ws.send(f"Echo: {message}")


websocket.listen("127.0.0.1:8080", echo, "/chat")
