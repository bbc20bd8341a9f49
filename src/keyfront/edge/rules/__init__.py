"""The rules that decide about a request or a response. Pure: no socket, clock, file or thread."""
