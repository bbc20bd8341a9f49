"""The client side of the edge: connections to origins, signed origin requests, and Origin Shield."""
