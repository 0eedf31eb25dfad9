"""Learning while serving, and its evaluation. No input, no output."""
