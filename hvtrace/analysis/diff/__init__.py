"""What changed between two recordings, and what chance alone would change."""
