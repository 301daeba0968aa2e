"""What someone runs after upgrading a framework: this checkout against `benchmarks/baselines/`, and that put to the test."""
