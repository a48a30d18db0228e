"""Questions a person asks a store, answered on its tables."""
