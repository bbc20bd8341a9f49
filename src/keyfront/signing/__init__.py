"""Policies, keys, signing, and verifying: CloudFront's signed URLs and signed cookies.

`sign.py` makes them, `verify.py` checks them, and `explain.py` says why one was refused, with `diagnosis/` to find the
mistake that a signer made. No clock, no socket; everything takes `now` as an argument.
"""
