"""What an image costs in energy: power sensors, rails, steady work, and an interval."""
