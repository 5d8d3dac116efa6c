"""The HTTP front: OpenAI's routes, server-sent events, and the record of every client's stream."""
