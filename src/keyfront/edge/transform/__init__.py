"""Changes to bodies on their way to the viewer: compression."""
