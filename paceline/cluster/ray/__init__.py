"""The cluster of many machines: runners are Ray actors, and Ray knows nothing else of them."""
