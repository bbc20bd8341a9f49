"""A setup in a file: what it declares, what exists, and the steps between; `keyfront plan` and `keyfront apply`.

Speaks only CloudFront's API through `cloudfront`, so that the same file works against Amazon. Everything except
`account.py` is pure.
"""
