"""The signing agent: an HTTP service that signs for applications that must not hold keys."""
