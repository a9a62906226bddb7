"""Pure choice: which slice takes the next request."""
