"""Clients of the CloudFront API, Keyfront's or Amazon's."""
