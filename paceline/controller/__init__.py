"""The one place that decides: observe, decide, act."""
