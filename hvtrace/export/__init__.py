"""Timelines for the Perfetto UI."""
