"""Keyfront's own operations of the control API: paths below /keyfront/, JSON in and out."""
