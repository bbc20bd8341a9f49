"""CloudFront's resources, by botocore's own description of the API, and the frozen snapshot that is compiled from them.

A resource has two forms and no third: the API's own dict on the wire and in the store, and the values of
`snapshot.py` at the edge. `compile.py` is the one way from the first to the second. Pure.
"""
