"""Programs that answer a question of their own on a machine that is at hand for minutes."""
