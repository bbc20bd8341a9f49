"""The rules that decide what happens to a request or a response. Pure: no socket, clock, file, or thread."""
