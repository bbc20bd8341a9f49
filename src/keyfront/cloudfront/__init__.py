"""The client of the CloudFront API, Keyfront's or Amazon's: sessions, endpoints, retries, and Keyfront's key usage API.

This package depends on botocore and not on this installation's store or edges. botocore is imported on first use, so
that the SDK can be installed without it.
"""
