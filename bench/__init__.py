"""Side-by-side measurements of the gateway and its peers with public tools. See README.md here."""
