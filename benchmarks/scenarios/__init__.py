"""What a contender is measured under besides the paired rounds: a stream, all at once, for long.

The rounds compare contenders in what one run takes. A scenario asks of each one alone what a user
gets: answers in time, images a second, and whether that lasts.
"""
