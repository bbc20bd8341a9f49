"""The console: pages for people at the control port, an ordinary client of the control plane.

Every page calls the control plane's API as the user who has logged in, so IAM decides what is shown and done, and the
audit log records who did it. docs/decisions/0051-console.md says how a page is added.
"""
