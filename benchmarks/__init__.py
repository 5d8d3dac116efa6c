"""What Paceline reaches on this machine. Numbers are compared within one run only."""
