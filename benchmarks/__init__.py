"""Speed, memory and settings, measured: see README.md here."""
