"""Where decoder queries come from."""
