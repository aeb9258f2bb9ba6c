"""What a user asks for: export, quantize, build, compare, bench and deploy."""
