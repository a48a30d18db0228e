"""What a recording says should be changed: each kind of advice in the file of its subject, all of them in a table."""
