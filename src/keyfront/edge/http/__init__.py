"""HTTP/1.1 and ASGI for viewers: parsing requests and writing responses."""
