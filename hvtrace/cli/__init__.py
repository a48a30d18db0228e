"""Commands, one file each; `main` holds the list of them."""
