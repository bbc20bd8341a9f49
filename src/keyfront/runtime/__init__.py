"""The composition root: settings, processes, supervision."""
