"""Data that ships: architectures, clusters and measured efficiencies, each number with its source."""
