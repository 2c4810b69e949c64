"""What this machine is, and the plan made for it."""
