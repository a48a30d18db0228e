"""bytes → Arrow tables: file formats and tracepoint layouts; nothing of the model."""
