"""The thin parent on each machine: the processes that it starts again when they end."""
