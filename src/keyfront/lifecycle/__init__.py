"""The lifecycle of keys: rotation, expiry, and emergencies (docs/reference/rotation.md).

`moves.py` contains the table of stages, `rotation.py` the rules that decide on the next step, `record_changes.py` what
a step writes, `commands.py` the operators' commands, and `findings.py` the warnings that follow from dates and usage:
all pure. `executor.py` takes the steps through `cloudfront.py` and custody, and reports each to the listeners in
`events.py`. The same code rotates keys on Keyfront and on Amazon's CloudFront.
"""
