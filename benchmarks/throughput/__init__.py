"""Every call of the contract on its own: a pytest-benchmark suite, and the interleaved comparison of two revisions."""
