"""What happened in the passes, as data, text and pictures."""
