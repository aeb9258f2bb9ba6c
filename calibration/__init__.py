"""Graph to typed graph: ranges, policy, Q/DQ. Nothing here yet; see the changelog."""
