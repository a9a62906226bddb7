"""State both planes share: slices, their health, and which of them take traffic. No I/O."""
