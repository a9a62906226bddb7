"""Programs for people who work with the project: the demo, the flower model."""
