"""Every call of the contract timed on its own: a pytest-benchmark suite."""
