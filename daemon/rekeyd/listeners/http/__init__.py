"""The HTTP listener: aiohttp's server, the access decision, local routes, and the way to the upstream."""
