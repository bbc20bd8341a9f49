"""Encrypted archives of an installation: made while it runs, verified, kept, restored, drilled.

Read `container.py` for what the bytes are, `contents.py` for what is in them, `taking.py` for how one is made and
verified, `restoring.py` for the way back, `drilling.py` for the proof that it works. `retention.py` says which are
kept, `places.py` where they lie; docs/reference/backup.md is the form in prose.
"""
