"""HTTP semantics as the RFCs define them (RFC 9110, 9111, 9651, 6455), without Keyfront's policy. Pure."""
