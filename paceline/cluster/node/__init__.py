"""A node of any cluster: its agent, and the roster of its runners."""
