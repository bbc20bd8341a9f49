"""The client side: connections to origins, signed origin requests, Origin Shield."""
