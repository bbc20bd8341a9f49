"""The life of a key: rotation, expiry, emergencies (docs/reference/rotation.md).

`rotation.py` is the table of stages and the rules, `commands.py` what an operator may order, `findings.py` what dates
and usage call for: all pure. `executor.py` takes the steps through `cloudfront.py` and custody, and reports each to
the listeners of `events.py`. The same code rotates keys on Keyfront and on Amazon's CloudFront.
"""
