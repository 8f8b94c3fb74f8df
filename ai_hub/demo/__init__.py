"""What the demonstration runs on."""
