"""What people type. Commands ask the gateway over HTTP and print; they decide nothing."""
