"""What people and scripts see: text for terminals, JSON, progress."""
