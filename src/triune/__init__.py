"""Triune: virtual machines, system containers and application containers as one."""

__version__ = "0.1.0"
