"""The harness: command line, isolated runs, clock, records, tables."""
