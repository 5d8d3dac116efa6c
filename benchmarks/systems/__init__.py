"""One module for each system: it runs in a process, and maybe an environment, of its own."""
