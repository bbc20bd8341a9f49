"""Sockets: listeners, TLS, sendfile, tunnels."""
