"""Joins the middle rooms: ingest (parser → attribution → store), check (store → replay → verdicts)."""
