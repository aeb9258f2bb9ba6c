"""Other machines: ssh, the board agent, and what is sent there."""
