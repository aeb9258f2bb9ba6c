"""A measurement for people: tables, charts and the HTML page."""
