"""Halt polling: what it cost and saved, whether it followed its rules, and what other parameters would have done."""
