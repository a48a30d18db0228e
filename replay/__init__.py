"""tables → verdicts: the engine, the model, the rules; nothing of formats, screens, disks."""
