"""Sockets: listeners, TLS, sendfile, and tunnels."""
