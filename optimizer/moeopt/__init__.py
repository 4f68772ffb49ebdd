"""moeopt: exact, proven training layouts for Mixture-of-Experts transformers."""

__version__ = "0.1.0"
