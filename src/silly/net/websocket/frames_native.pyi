from silly.net.websocket.frames import Parser as Parser
from silly.net.websocket.frames import frame as frame
from silly.net.websocket.frames import framed as framed
from silly.net.websocket.frames import masked as masked
from silly.net.websocket.frames import new_key as new_key
