"""artgen restores image archives and generates image sets, on one laptop or on a Ray cluster."""

__version__ = "0.1.0"
