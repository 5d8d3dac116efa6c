"""What has the machines: nodes come and go, runners are started and killed on them."""
