"""Networking: `silly.net.tcp` for connections, `silly.net.addr` for their addresses."""
