"""HTTP's own semantics (RFC 9110, 9111, 9651, 6455), without Keyfront's policy. Pure."""
