"""One port in front of N Triton servers that behaves like one big Triton."""
