"""The composition root: settings, the processes of one machine, and their supervision.

This is the only package that imports both the edge and the control plane. It connects them and contains no rules.
"""
