"""HTTP and XML: routes, the codec, Signature Version 4, health and metrics endpoints."""
