"""The embedded cluster: virtual nodes on one machine, each a supervisor with its own memory."""
