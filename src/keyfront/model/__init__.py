"""CloudFront's resources, as described by botocore's model of the API, and the immutable snapshot compiled from them.

A resource has exactly two forms: the API's own dict on the wire and in the store, and the values in `snapshot.py` at
the edge. Only `compile.py` converts the first to the second. Pure.
"""
