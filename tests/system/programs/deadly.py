DEADLY = 48_999
"""The token that kills. Apart from the program, so that tests can name it."""
