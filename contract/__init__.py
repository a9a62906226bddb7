"""What the two programs promise each other: slices, the inventory file, and the log format."""
