"""The lifecycle of keys: rotation, expiry, and emergencies (docs/reference/rotation.md).

`rotation.py` contains the table of stages and the rules, `commands.py` the operators' commands, and `findings.py` the
warnings that follow from dates and usage: all pure. `executor.py` takes the steps through `cloudfront.py` and custody,
and reports each to the listeners in `events.py`. The same code rotates keys on Keyfront and on Amazon's CloudFront.
"""
