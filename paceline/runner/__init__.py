"""The process that holds a shard: its mailbox, its part of the line, and on rank 0 the driver."""
