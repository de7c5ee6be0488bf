"""The version of the package: here alone, as what is vendored or frozen has no metadata to ask."""

__version__ = "0.1.0"
