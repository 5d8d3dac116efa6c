"""ZeroMQ between processes: the control path, and the encrypted links that tokens flow on."""
