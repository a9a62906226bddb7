"""Pictures of flowers, drawn, and the small network that tells them apart."""
