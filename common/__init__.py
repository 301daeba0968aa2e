"""What all backends share; NumPy only."""
