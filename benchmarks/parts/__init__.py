"""What `python -m benchmarks PART` measures, a module for each part."""
