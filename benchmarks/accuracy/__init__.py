"""How well the artefact answers that was timed, on the user's images."""
