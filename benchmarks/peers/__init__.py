"""Other people's code, timed beside this suite's; docs/peers.md says how."""
