"""Our own explicit methods in torch: fixed steps, and steps that each sample chooses for itself."""
