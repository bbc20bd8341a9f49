"""Metrics by minute, alarms on them, and the actions of alarms (docs/guide/alarms.md)."""
