"""The reference model: small state machines, each named after what it models.

State is three-valued: what has not been seen is None.
"""
