"""The composition root: settings, the processes of one machine, and their supervision.

The only package that knows both the edge and the control plane. It connects them and holds no rules.
"""
