"""What a measurement was taken under, and whether it may be believed."""
