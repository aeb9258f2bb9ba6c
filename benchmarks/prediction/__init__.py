"""What a network would take on a GPU that is not at hand: a roofline by block, as a range.

Every figure from here is a prediction and is called one. `work` says what a network does,
`hardware` what a GPU can do at most, `constants` which share of that is reached, `roofline` how
long it takes; `fit` finds the constants from measurements.
"""
