"""How far the answers of an artefact are from those that it must give."""
