"""What the gateway's commands show in a terminal."""
