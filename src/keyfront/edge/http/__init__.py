"""HTTP/1.1 and ASGI toward viewers: parse requests, write responses."""
