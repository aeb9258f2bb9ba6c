"""What a user asks for: export, quantize, build, compare, bench and deploy.

A function here takes a request and a reporter and returns a result; it neither parses words nor
prints. `fpet_export.cli.verbs` makes the requests from words and prints the results;
`fpet_export` offers the same functions to Python.
"""
