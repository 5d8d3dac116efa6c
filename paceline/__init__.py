"""Paceline: ordinary machines, each carrying a range of a model's layers, answering as one."""

__version__ = "0.1.0"
